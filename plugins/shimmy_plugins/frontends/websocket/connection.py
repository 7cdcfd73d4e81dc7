"""One connection: requests come in, frames go out, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from shimmy.errors import RequestError
from shimmy.server.body import read_object
from shimmy.server.context import ServerContext
from shimmy_plugins.frontends.native.answer import Frame, error_frame, frames, or_error, prepare, whole

Id: TypeAlias = str | int | None
"""What a client calls a request; None: nothing."""

MOST_RUNNING = 64


class IdError(RequestError):
    """The id belongs to a request that is running, or to none."""

    code = "invalid_id"


@dataclass(slots=True, eq=False)
class _Running:
    """A request under way."""

    answering: asyncio.Task[None] | None = None
    sending: bool = False
    cancelled: bool = False

    def cancel(self) -> None:
        """End it: at once, or behind the frame that is being sent, for half a frame ends the connection."""
        self.cancelled = True
        if self.answering and not self.sending:
            self.answering.cancel()


class Connection:
    """A client's connection.

    Args:
        receive: waits for the next message.
        send: sends one; slow while the client is slow, which slows down what it waits for.
    """

    def __init__(
        self,
        context: ServerContext,
        receive: Callable[[], Awaitable[str | bytes | None]],
        send: Callable[[str], Awaitable[None]],
    ) -> None:
        self._context = context
        self._receive = receive
        self._send_text = send
        # Frames of several requests must not mix.
        self._turn = asyncio.Lock()
        self._running: dict[Id, _Running] = {}

    async def serve(self) -> None:
        """Answer until the server stops; being cancelled cancels all requests."""
        stops = asyncio.create_task(self._context.models.stops.wait())
        try:
            async with asyncio.TaskGroup() as tasks:
                while not stops.done():
                    receiving = asyncio.ensure_future(self._receive())
                    try:
                        await asyncio.wait([receiving, stops], return_when=asyncio.FIRST_COMPLETED)
                        if receiving.done():
                            await self._take(receiving.result() or "", tasks)
                    finally:
                        receiving.cancel()
        finally:
            stops.cancel()

    async def _take(self, message: str | bytes, tasks: asyncio.TaskGroup) -> None:
        """Start or cancel a request; what is wrong with the message is told, and the connection lives on."""
        name: Id = None
        try:
            fields = read_object(message)
            if "cancel" in fields:
                self._cancel(name := _id(fields["cancel"]))
                return
            name = _id(fields.pop("id", None))
            self._check_room(name)
        except RequestError as error:
            await self._send(name, error_frame(error))
            return
        running = self._running[name] = _Running()
        running.answering = tasks.create_task(self._answer(name, running, fields))

    def _cancel(self, name: Id) -> None:
        if (running := self._running.get(name)) is None:
            raise IdError(f"no request {_shown(name)} is running.", param="cancel")
        running.cancel()

    def _check_room(self, name: Id) -> None:
        if name in self._running:
            raise IdError(
                f"a request {_shown(name)} is still running.",
                hint="Give each request an id of its own, or wait for its last frame.",
                param="id",
            )
        if len(self._running) >= MOST_RUNNING:
            raise RequestError(
                f"{MOST_RUNNING} requests are running on this connection, which is the most it takes.",
                hint="Wait for one to end, or open another connection.",
            )

    async def _answer(self, name: Id, running: _Running, fields: dict[str, Any]) -> None:
        last: Frame = {"done": True, "done_reason": "cancelled"}
        try:
            async with aclosing(or_error(self._frames(fields))) as parts:
                async for frame in parts:
                    if "token" not in frame:
                        last = frame
                        break
                    running.sending = True
                    await self._send(name, frame)
                    running.sending = False
                    if running.cancelled:
                        break
        except asyncio.CancelledError:
            if not running.cancelled:
                raise  # the client is gone
        # Free before its last frame is out: the client may use the id again at once.
        del self._running[name]
        await self._send(name, last)

    async def _frames(self, fields: dict[str, Any]) -> AsyncGenerator[Frame, None]:
        job = await prepare(self._context, fields, "websocket")
        if job.stream is False:
            yield await whole(job)
            return
        async with aclosing(frames(job)) as parts:
            async for frame in parts:
                yield frame

    async def _send(self, name: Id, frame: Frame) -> None:
        named = frame if name is None else {"id": name, **frame}
        async with self._turn:
            await self._send_text(msgspec.json.encode(named).decode())


def _id(value: Any) -> Id:
    if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
        return value
    raise RequestError("id is neither a text nor a whole number.", param="id")


def _shown(name: Id) -> str:
    return "without an id" if name is None else f"with the id {name!r}"
