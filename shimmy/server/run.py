"""Running the app on listening sockets until a signal: preload, serve, drain, end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from shimmy.errors import AdapterError, ShimmyError

if TYPE_CHECKING:
    from hypercorn.config import Config
    from quart import Quart

    from shimmy.engine.launch import Early, Workers
    from shimmy.server.context import ServerContext
    from shimmy.server.listen import Listener
    from shimmy.server.served import ServedModel

#: Seconds running requests get to end by themselves.
DRAIN_SECONDS = 3.0
#: Seconds after which connections that will not close are left behind.
CLOSE_SECONDS = 5.0
#: Seconds between finding a model and the first frame to its engine: a few turns of the event loop.
ORDER_SECONDS = 0.002
#: Seconds between serving and reading the default model's text side: those who wait are answered first.
ANSWER_SECONDS = 0.02
#: Seconds an idle connection stays open.
KEEP_ALIVE_SECONDS = 75.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What ``run`` serves; ``on_ready`` is called with the default model once it is loaded."""

    app: Quart
    on_ready: Callable[[ServedModel], None]


def run(early: Early, context: ServerContext, listener: Listener, prepare: Callable[[], Served]) -> None:
    """Serve until Ctrl-C or a signal to terminate.

    The default model is loaded beside, even while ``prepare`` makes the app. A load
    that fails is logged and shown by the server, which goes on. Raises what ``prepare`` raises.
    """
    early.runner.run(_run(early.workers, context, listener, prepare))


async def _run(
    workers: Workers, context: ServerContext, listener: Listener, prepare: Callable[[], Served]
) -> None:
    stop = asyncio.Event()

    async def stopped() -> None:
        await stop.wait()
        await context.models.drain(DRAIN_SECONDS)
        # What still runs ends with its engine, so that no connection holds up the end.
        await context.models.close()

    # Threads of Python take turns: the vocabulary would hold up the imports of the app, and all who wait
    # for them, while the engine loads in any case.
    context.models.reading.clear()
    with _signals_set(stop):
        prepared = asyncio.create_task(_prepare(prepare, context))
        serving = asyncio.create_task(_serve(prepared, context, listener, stopped))
        preloading = asyncio.create_task(_preload(context, workers, prepared))
        try:
            await _first_of(stop, serving)
            # Not cancelled on time out: hypercorn closes its connections in order, or not at all.
            await asyncio.wait([serving], timeout=DRAIN_SECONDS + CLOSE_SECONDS)
        finally:
            for task in (preloading, serving):
                task.cancel()
            await asyncio.gather(preloading, return_exceptions=True)
            # The app does so too, but there may be none.
            await context.models.close()
    if serving.done():
        serving.result()


async def _first_of(stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Wait for the signal, or for a server that ends by itself (it could not start)."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


async def _prepare(prepare: Callable[[], Served], context: ServerContext) -> Served:
    # First the engine gets its orders: it has much to do, and needs none of these imports.
    await context.default.sought.wait()
    await asyncio.sleep(ORDER_SECONDS)
    # Here, though it holds up the loop, which has nothing to do yet: what compiling modules needs for a
    # moment goes back to the memory this thread goes on using. In a thread's own it cost 3 MiB for good.
    import hypercorn.asyncio  # noqa: F401

    return prepare()


async def _serve(
    prepared: asyncio.Task[Served],
    context: ServerContext,
    listener: Listener,
    stopped: Callable[[], Awaitable[None]],
) -> None:
    app = (await prepared).app
    from hypercorn.asyncio import serve

    @app.before_serving
    async def _() -> None:
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, context.models.reading.set)

    await serve(app, server_config(listener), shutdown_trigger=stopped)


async def _preload(context: ServerContext, workers: Workers, prepared: asyncio.Task[Served]) -> None:
    try:
        model = await context.default.load(context)
    except ShimmyError as error:
        # Why a model cannot be loaded, the pool has logged; not what is wrong with an adapter for it.
        if context.default.name is None or isinstance(error, AdapterError):
            _log.error("no model is loaded: %s", error)
        # Nobody may ever want the worker that was started ahead.
        await workers.close()
    else:
        (await prepared).on_ready(model)


def server_config(listener: Listener) -> Config:
    """How hypercorn serves on these sockets, which become its own."""
    from hypercorn.config import Config

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
