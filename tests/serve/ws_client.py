"""A small WebSocket client, on the protocol library that the server brings along."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate


class RefusedError(Exception):
    """The server did not open the WebSocket."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class WebSocketClient:
    """An open connection; ``subprotocol`` is what the server chose."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Event] = deque()
        self.subprotocol: str | None = None

    async def open(self, path: str, subprotocols: Sequence[str], headers: dict[str, str]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        request = Request(
            host="localhost",
            target=path,
            subprotocols=list(subprotocols),
            extra_headers=raw,
            extensions=[PerMessageDeflate()],
        )
        self._write(request)
        event = await self._next()
        if isinstance(event, RejectConnection):
            raise RefusedError(event.status_code, await self._body() if event.has_body else b"")
        assert isinstance(event, AcceptConnection)
        self.subprotocol = event.subprotocol

    def send(self, message: dict[str, Any] | str | bytes) -> None:
        """A message: text, binary, or an object as JSON text."""
        if isinstance(message, dict):
            message = json.dumps(message)
        self._write(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def receive(self) -> Any:
        """The next frame; None once the server has closed the connection."""
        text = ""
        while True:
            event = await self._next()
            if isinstance(event, CloseConnection):
                return None
            if isinstance(event, Ping):
                self._write(event.response())
                continue
            assert isinstance(event, Message)
            assert isinstance(event.data, str)
            text += event.data
            if event.message_finished:
                return json.loads(text)

    async def ask(self, message: dict[str, Any] | str | bytes) -> list[Any]:
        """Send a message; the frames up to the last one that belongs to it."""
        self.send(message)
        frames = [await self.receive()]
        while "token" in frames[-1]:
            frames.append(await self.receive())
        return frames

    async def _body(self) -> bytes:
        data = b""
        while True:
            event = await self._next()
            assert isinstance(event, RejectData)
            data += event.data
            if event.body_finished:
                return data

    def _write(self, event: Event) -> None:
        self._writer.write(self._protocol.send(event))

    async def _next(self) -> Event:
        while not self._events:
            data = await self._reader.read(65536)
            self._protocol.receive_data(data or None)
            self._events.extend(self._protocol.events())
        return self._events.popleft()


@contextlib.asynccontextmanager
async def websocket(
    port: int, path: str = "/ws/generate", subprotocols: Sequence[str] = (), **headers: str
) -> AsyncIterator[WebSocketClient]:
    """A connection; leaving the block hangs up without saying goodbye."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        client = WebSocketClient(reader, writer)
        await client.open(path, subprotocols, headers)
        yield client
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
