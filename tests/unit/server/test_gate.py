"""What is refused, answered and let through at the gate, for HTTP and WebSocket alike."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from shimmy.errors import ShimmyError
from shimmy.server.gate import Gate
from shimmy.server.guard import Guard
from shimmy.server.keys import KeyRing

LOCAL = Guard(["127.0.0.1", "::1"])
LISTED = Guard(["127.0.0.1"], ["llm.example:443"], ["https://app.example"])
KEYS = KeyRing("right", None)


async def _inner(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})
    else:
        await send({"type": "websocket.accept"})


def _ask(
    guard: Guard,
    kind: str = "http",
    method: str = "GET",
    *,
    keys: KeyRing | None = None,
    path: str = "/v1/models",
    scope: dict[str, Any] | None = None,
    **headers: str,
) -> list[dict[str, Any]]:
    """What the app behind the gate sends."""

    def body(path: str, error: ShimmyError) -> bytes:
        return f"{path}: {error}".encode()

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asked = {"type": kind, "path": path, "headers": raw, **(scope or {})}
    if kind == "http":
        asked["method"] = method
    asyncio.run(Gate(_inner, guard, keys, {"GET /about"}, body)(asked, None, send))
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


def test_refused_websockets_are_told_why_where_the_server_can() -> None:
    scope = {"extensions": {"websocket.http.response": {}}}
    start, body = _ask(LOCAL, "websocket", scope=scope, host="evil.example")
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert b"evil.example" in body["body"]


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


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer right"}, 200),
        ({"authorization": "bearer  right "}, 200),
        ({"x_api_key": "right"}, 200),
        ({"authorization": "Bearer wrong", "x_api_key": "right"}, 200),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer righ"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Basic right"}, 401),
        ({"authorization": "right"}, 401),
        ({"x_api_key": "Bearer right"}, 401),
    ],
)
def test_keys(headers: dict[str, str], status: int) -> None:
    start, *_ = _ask(LOCAL, keys=KEYS, host="localhost", **headers)
    assert start["status"] == status
    assert ((b"www-authenticate", b"Bearer") in start["headers"]) is (status == 401)


def test_refusals_do_not_repeat_the_key() -> None:
    _, body = _ask(LOCAL, keys=KEYS, host="localhost", authorization="Bearer guessed")
    assert b"not valid" in body["body"]
    assert b"guessed" not in body["body"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/about", 200),
        ("HEAD", "/about", 200),
        ("POST", "/about", 401),
        ("GET", "/about/", 401),
        ("GET", "/About", 401),
        ("GET", "//about", 401),
    ],
)
def test_public_routes_need_no_key(method: str, path: str, status: int) -> None:
    start, *_ = _ask(LOCAL, method=method, keys=KEYS, path=path, host="localhost")
    assert start["status"] == status


def test_strangers_are_refused_before_their_key_is_looked_at() -> None:
    start, _ = _ask(LOCAL, keys=KEYS, host="evil.example", authorization="Bearer right")
    assert start["status"] == 403


def test_preflight_passes_without_a_key_and_refusals_can_be_read() -> None:
    page = {"host": "localhost", "origin": "https://app.example"}
    start, _ = _ask(LISTED, method="OPTIONS", keys=KEYS, access_control_request_method="POST", **page)
    assert start["status"] == 204
    start, _ = _ask(LISTED, keys=KEYS, **page)
    assert start["status"] == 401
    assert dict(start["headers"])[b"access-control-allow-origin"] == b"https://app.example"
    # One of a page that may call but not read is no preflight of ours.
    start, _ = _ask(
        LISTED,
        method="OPTIONS",
        keys=KEYS,
        host="localhost",
        origin="http://localhost:3000",
        access_control_request_method="POST",
    )
    assert start["status"] == 401


def _offer(key: bytes) -> str:
    return "shimmy.key." + base64.urlsafe_b64encode(key).decode().rstrip("=")


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        (["shimmy", _offer(b"right")], True),
        (["shimmy", _offer(b"wrong")], False),
        (["shimmy"], False),
        (["shimmy", "shimmy.key.right"], False),
        (["shimmy", "shimmy.key.\xe9"], False),
        (["shimmy.key.x"], False),
    ],
)
def test_pages_offer_the_key_of_a_websocket_as_subprotocol(offered: list[str], accepted: bool) -> None:
    [first] = _ask(LOCAL, "websocket", keys=KEYS, scope={"subprotocols": offered}, host="localhost")
    assert (first["type"] == "websocket.accept") is accepted


def test_no_key_is_looked_for_in_the_url() -> None:
    [first] = _ask(LOCAL, "websocket", keys=KEYS, scope={"query_string": b"api_key=right"}, host="localhost")
    assert first["type"] == "websocket.close"
