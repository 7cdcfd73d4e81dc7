"""Framing of server-sent events."""

from __future__ import annotations

import pytest

from shimmy.server import sse


@pytest.mark.parametrize(
    ("data", "framed"),
    [
        (b"[DONE]", b"data: [DONE]\n\n"),
        (b'{"a":1}', b'data: {"a":1}\n\n'),
        (b"two\nlines", b"data: two\ndata: lines\n\n"),
        (b"every\r\nkind\rof\nline", b"data: every\ndata: kind\ndata: of\ndata: line\n\n"),
        (b"", b"data: \n\n"),
    ],
)
def test_event(data: bytes, framed: bytes) -> None:
    assert sse.event(data) == framed


def test_named_event() -> None:
    assert sse.event(b"x", name="error") == b"event: error\ndata: x\n\n"
