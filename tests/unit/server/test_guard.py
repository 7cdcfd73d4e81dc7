"""Which Host and Origin headers are let in, for HTTP and WebSocket alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shimmy.errors import ShimmyError
from shimmy.server.guard import Guard, GuardedApp

LOCAL = Guard(["127.0.0.1", "::1"])
OPEN = Guard(["0.0.0.0"])
LISTED = Guard(["127.0.0.1"], ["llm.example:443"], ["https://app.example"])


@pytest.mark.parametrize(
    ("guard", "host", "allowed"),
    [
        (LOCAL, "localhost", True),
        (LOCAL, "localhost:8080", True),
        (LOCAL, "LOCALHOST.:1", True),
        (LOCAL, "app.localhost:11435", True),
        (LOCAL, "127.0.0.1:11435", True),
        (LOCAL, "127.8.9.10", True),
        (LOCAL, "[::1]:11435", True),
        (LOCAL, "evil.example", False),
        (LOCAL, "localhost.evil.example", False),
        (LOCAL, "127.0.0.1.nip.example", False),
        (LOCAL, "evil@localhost", False),
        (LOCAL, "192.168.1.5:11435", False),
        (LOCAL, "", False),
        (LOCAL, None, False),
        (OPEN, "192.168.1.5:11435", True),
        (OPEN, "[fd00::5]:11435", True),
        (OPEN, "localhost", True),
        (OPEN, "evil.example", False),
        (LISTED, "llm.example:443", True),
        (LISTED, "LLM.example", True),
        (LISTED, "other.llm.example", False),
    ],
)
def test_host(guard: Guard, host: str | None, allowed: bool) -> None:
    assert (guard.check(host, None) is None) is allowed


@pytest.mark.parametrize(
    ("guard", "origin", "allowed"),
    [
        (LOCAL, None, True),
        (LOCAL, "http://localhost:3000", True),
        (LOCAL, "https://127.0.0.1", True),
        (LOCAL, "http://[::1]:3000", True),
        (LOCAL, "https://evil.example", False),
        (LOCAL, "http://localhost.evil.example", False),
        (LOCAL, "null", False),
        (LOCAL, "file://", False),
        (LISTED, "https://app.example", True),
        (LISTED, "http://app.example", False),
        (LISTED, "https://app.example.evil.example", False),
        (Guard(["127.0.0.1"], (), ["*"]), "https://any.example", True),
    ],
)
def test_origin(guard: Guard, origin: str | None, allowed: bool) -> None:
    assert (guard.check("localhost:11435", origin) is None) is allowed


def test_a_page_of_the_server_itself_is_let_in() -> None:
    assert OPEN.check("192.168.1.5:11435", "http://192.168.1.5:11435") is None
    assert OPEN.check("192.168.1.5:11435", "http://192.168.1.6:11435") is not None


def test_errors_name_the_setting() -> None:
    host, origin = LOCAL.check("evil.example", None), LOCAL.check("localhost", "https://evil.example")
    assert host is not None
    assert "allowed_hosts" in str(host)
    assert origin is not None
    assert "allowed_origins" in str(origin)


async def _inner(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})
    else:
        await send({"type": "websocket.accept"})


def _ask(guard: Guard, kind: str = "http", method: str = "GET", **headers: str) -> list[dict[str, Any]]:
    """What the guarded app sends."""

    def body(path: str, error: ShimmyError) -> bytes:
        return f"{path}: {error}".encode()

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": "/v1/models", "headers": raw}
    asyncio.run(GuardedApp(_inner, guard, body)(scope, None, send))
    return sent


def test_refused_http_requests_get_403_and_never_reach_the_app() -> None:
    start, body = _ask(LOCAL, host="evil.example")
    assert start["status"] == 403
    assert b"/v1/models: the request is for host 'evil.example'" in body["body"]


def test_refused_websockets_are_closed_before_they_open() -> None:
    assert _ask(LOCAL, "websocket", host="localhost", origin="https://evil.example") == [
        {"type": "websocket.close", "code": 1008}
    ]
    assert _ask(LOCAL, "websocket", host="localhost") == [{"type": "websocket.accept"}]


def test_lifespan_passes() -> None:
    assert _ask(LOCAL, "lifespan") == [{"type": "websocket.accept"}]


def test_cors_headers_are_for_listed_origins_only() -> None:
    listed = dict(_ask(LISTED, host="localhost", origin="https://app.example")[0]["headers"])
    assert listed[b"access-control-allow-origin"] == b"https://app.example"
    assert listed[b"vary"] == b"Origin"
    assert _ask(LISTED, host="localhost", origin="http://localhost:3000")[0]["headers"] == []


def test_preflight_is_answered_for_listed_origins() -> None:
    start, _ = _ask(
        LISTED,
        method="OPTIONS",
        host="localhost",
        origin="https://app.example",
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type",
        access_control_request_private_network="true",
    )
    headers = dict(start["headers"])
    assert start["status"] == 204
    assert headers[b"access-control-allow-headers"] == b"authorization,content-type"
    assert b"POST" in headers[b"access-control-allow-methods"]
    assert headers[b"access-control-allow-private-network"] == b"true"
