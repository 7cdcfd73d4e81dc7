"""Running the app on listening sockets until a signal: preload, serve, drain, end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config

from shimmy.errors import ShimmyError

if TYPE_CHECKING:
    from quart import Quart

    from shimmy.server.context import ServerContext
    from shimmy.server.listen import Listener
    from shimmy.server.models import ServedModel

#: Seconds running requests get to end by themselves.
DRAIN_SECONDS = 3.0
#: Seconds after which connections that will not close are left behind.
CLOSE_SECONDS = 5.0
#: Seconds an idle connection stays open.
KEEP_ALIVE_SECONDS = 75.0

_log = logging.getLogger(__name__)


def run(
    app: Quart, context: ServerContext, listener: Listener, on_ready: Callable[[ServedModel], None]
) -> None:
    """Serve until Ctrl-C or a signal to terminate.

    The default model is loaded beside; ``on_ready`` is called with it. A load that fails is
    logged and shown by the server, which goes on.
    """
    asyncio.run(_run(app, context, listener, on_ready))


async def _run(
    app: Quart, context: ServerContext, listener: Listener, on_ready: Callable[[ServedModel], None]
) -> None:
    stop = asyncio.Event()

    async def stopped() -> None:
        await stop.wait()
        await context.models.drain(DRAIN_SECONDS)
        # What still runs ends with its engine, so that no connection holds up the end.
        await context.models.close()

    with _signals_set(stop):
        serving = asyncio.create_task(hypercorn_serve(app, server_config(listener), shutdown_trigger=stopped))
        preloading = asyncio.create_task(_preload(context, on_ready))
        try:
            await _first_of(stop, serving)
            # Not cancelled on time out: hypercorn closes its connections in order, or not at all.
            await asyncio.wait([serving], timeout=DRAIN_SECONDS + CLOSE_SECONDS)
        finally:
            for task in (preloading, serving):
                task.cancel()
            await asyncio.gather(preloading, return_exceptions=True)
    if serving.done():
        serving.result()


async def _first_of(stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Wait for the signal, or for a server that ends by itself (it could not start)."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


async def _preload(context: ServerContext, on_ready: Callable[[ServedModel], None]) -> None:
    try:
        on_ready(await context.default.load(context))
    except ShimmyError as error:
        if context.default.name is None:  # else the pool has logged why the model cannot be loaded
            _log.error("no model is loaded: %s", error)


def server_config(listener: Listener) -> Config:
    """How hypercorn serves on these sockets, which become its own."""
    config = Config()
    config.bind = [f"fd://{sock.detach()}" for sock in listener.sockets]
    config.accesslog = None
    config.loglevel = "WARNING"
    config.include_server_header = False
    config.graceful_timeout = CLOSE_SECONDS
    # Longer than clients keep theirs, or they send into a connection that is just being closed.
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    return config


@contextmanager
def _signals_set(stop: asyncio.Event) -> Iterator[None]:
    """The first signal sets ``stop``; a second one ends the process as if nobody had listened."""
    loop = asyncio.get_running_loop()
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # Plain handlers, for loop.add_signal_handler does not exist on Windows.
    previous = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        restore()
        loop.call_soon_threadsafe(stop.set)

    for number in signals:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
