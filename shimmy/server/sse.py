"""Server-sent events: framing, and the response that carries them.

There is no queue here. The response asks for the next event only when the previous one is on its
way to the client, so a slow client slows its own source; what the engine produces meanwhile
arrives as one coalesced event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from quart import Response


def event(data: bytes, *, name: str | None = None) -> bytes:
    """One event; several lines of ``data`` stay several lines."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def event_stream(events: AsyncGenerator[bytes, None]) -> Response:
    """A response of events; ``events`` is closed when it ends or the client goes away."""
    response = Response(events, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    # nginx would otherwise collect the stream and hand it on at its end.
    response.headers["X-Accel-Buffering"] = "no"
    # A generation takes as long as it takes.
    response.timeout = None
    return response
