"""The events of one request on their way from the worker to whoever reads them."""

from __future__ import annotations

import asyncio

from shimmy.engine.protocol import TokenEvent
from shimmy.errors import ShimmyError


class EventStream:
    """Events of one request, coalesced until its consumer wakes up."""

    def __init__(self) -> None:
        self._events: list[TokenEvent] = []
        self._error: ShimmyError | None = None
        self._wake = asyncio.Event()

    def push(self, event: TokenEvent) -> None:
        self._events.append(event)
        self._wake.set()

    def fail(self, error: ShimmyError) -> None:
        self._error = error
        self._wake.set()

    async def next(self) -> list[TokenEvent]:
        await self._wake.wait()
        self._wake.clear()
        if self._events:
            events, self._events = self._events, []
            if self._error:
                self._wake.set()
            return events
        assert self._error
        raise self._error
