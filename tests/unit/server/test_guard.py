"""Which Host and Origin headers are let in."""

from __future__ import annotations

import pytest

from shimmy.server.guard import Guard

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
        (LOCAL, "[::1]evil", False),
        (LOCAL, "[::1", False),
        (LOCAL, "::1", False),
        (LOCAL, "localhost:80:90", False),
        (LOCAL, "localhost:80evil", False),
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
        (LOCAL, "http://[evil", False),
        (LOCAL, "http://[::1]evil", False),
        (LOCAL, "http://evil.example/http://localhost", False),
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
