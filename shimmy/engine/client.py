"""The server's side of an engine worker: starts it, talks to it, survives it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path

from shimmy.engine.launch import Workers
from shimmy.engine.protocol import (
    HEADER_BYTES,
    PROTOCOL_VERSION,
    AdapterLoaded,
    Cancel,
    Failed,
    FromWorker,
    Load,
    LoadAdapter,
    Progress,
    Ready,
    Sampling,
    Stats,
    StepFrame,
    Submit,
    TokenEvent,
    ToWorker,
    UnloadAdapter,
    frame_length,
    pack,
    unpack_from_worker,
)
from shimmy.engine.settings import EngineSettings
from shimmy.engine.stream import EventStream
from shimmy.errors import EngineError, ShimmyError, WorkerDiedError

log = logging.getLogger("shimmy.engine")

#: Seconds a worker gets to end by itself when its stdin closes.
GRACE = 3.0
#: Seconds before each attempt to replace a worker that died; the last one repeats.
RESTART_PAUSES = (0.0, 0.5, 2.0, 8.0, 30.0)


class EngineClient:
    """One engine worker process, as the server's event loop sees it.

    ``state`` is stopped, loading, ready, restarting or failed. A worker that dies is started again,
    if need be after ever longer pauses; a request that comes in between tries at once.
    """

    def __init__(
        self, model_name: str, model_path: Path, settings: EngineSettings, workers: Workers | None = None
    ) -> None:
        self.model_name = model_name
        self.model_path = model_path
        self.settings = settings
        self.state = "stopped"
        self.ready: Ready | None = None
        self.progress: Progress | None = None
        self.stats: Stats | None = None
        self.error: ShimmyError | None = None
        self._workers = workers or Workers()
        self.adapters: set[int] = set()
        """Ids of the adapters in the worker; empty in one that was started anew."""
        self._loading_adapters: dict[int, asyncio.Future[AdapterLoaded]] = {}
        self._ids = itertools.count(1)
        self._streams: dict[int, EventStream] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[Ready] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None when there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> Ready:
        """Start the worker and load the model, once however many ask; raises what went wrong there."""
        if self._closing:
            raise WorkerDiedError(f"the engine of {self.model_name!r} is shutting down.")
        if self.state == "ready" and self.ready:
            return self.ready
        if self._starting is None or self._starting.done():
            self.state = "loading" if self.state in ("stopped", "failed") else self.state
            self._starting = asyncio.create_task(self._start())
            # Retrieved here so that a failure nobody waits for any more does not warn; state tells of it.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shielded: a client that goes away must not take down the load others wait for.
        return await asyncio.shield(self._starting)

    async def generate(
        self,
        tokens: list[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        stop_ids: Iterable[int],
        salt: str = "",
        adapters: Sequence[tuple[int, float]] = (),
    ) -> AsyncGenerator[list[TokenEvent], None]:
        """Events as they come, those of several steps together when the consumer is slow.

        The last event carries ``finish``. Closing the generator early cancels the request. ``adapters``
        are ids of :meth:`load_adapter`, each with a factor.
        """
        while self.state != "ready":
            await self.start()
        request = Submit(next(self._ids), tokens, max_tokens, sampling, list(stop_ids), salt, list(adapters))
        stream = self._streams[request.id] = EventStream()
        finished = False
        try:
            await self._send(request)
            while not finished:
                events = await stream.next()
                finished = events[-1].finish is not None
                if events[-1].error:
                    raise events[-1].error.to_error()
                yield events
        except WorkerDiedError:
            finished = True
            raise
        finally:
            del self._streams[request.id]
            if not finished:
                self._post(Cancel(request.id))

    async def load_adapter(self, path: Path) -> AdapterLoaded:
        """Read an adapter into the worker; the answer's ``id`` stands for this version of it.

        Raises:
            AdapterError: it cannot be used with this model.
            WorkerDiedError: the worker ended meanwhile.
        """
        while self.state != "ready":
            await self.start()
        frame = LoadAdapter(next(self._ids), str(path))
        loaded = self._loading_adapters[frame.id] = asyncio.get_running_loop().create_future()
        await self._send(frame)
        try:
            facts: AdapterLoaded = await asyncio.shield(loaded)
        except asyncio.CancelledError:
            # It takes a place until the worker has answered: the next one must not be read before.
            with contextlib.suppress(ShimmyError):
                await loaded
                self._post(UnloadAdapter(frame.id))
            raise
        self.adapters.add(frame.id)
        return facts

    def unload_adapter(self, adapter: int) -> None:
        """Give an adapter up; requests that have it keep it to their end."""
        if adapter in self.adapters:
            self.adapters.discard(adapter)
            self._post(UnloadAdapter(adapter))

    async def close(self) -> None:
        """End the worker: its stdin closes, then it has a few seconds."""
        self._closing = True
        for task in (self._restarting, self._starting):
            if task:
                task.cancel()
        process = self._process
        if process and process.returncode is None:
            if process.stdin:
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), GRACE)
            except TimeoutError:
                process.kill()
                await process.wait()
        tasks = [task for task in (self._reader, self._restarting, self._starting) if task]
        await asyncio.gather(*tasks, return_exceptions=True)
        self.state = "stopped"
        self.ready = None

    # -- the process ----------------------------------------------------------------------------

    async def _start(self) -> Ready:
        try:
            self.ready = self.stats = self.progress = None
            self._process = await self._workers.take()
            loaded: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
            self._reader = asyncio.create_task(self._read(self._process, loaded))
            await self._send(Load(PROTOCOL_VERSION, str(self.model_path), self.model_name, self.settings))
            return await loaded
        except OSError as error:
            self.state = "failed"
            self.error = EngineError(f"the engine process cannot be started: {error}.")
            raise self.error from error
        except ShimmyError as error:
            self.state, self.error = "failed", error
            raise

    async def _read(self, process: asyncio.subprocess.Process, loaded: asyncio.Future[Ready]) -> None:
        """Dispatch the worker's frames until it ends, then tell everyone who waits for it."""
        assert process.stdout
        failure: ShimmyError | None = None
        try:
            while True:
                length = frame_length(await process.stdout.readexactly(HEADER_BYTES))
                frame = unpack_from_worker(await process.stdout.readexactly(length))
                self._dispatch(frame, loaded)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except EngineError as error:
            failure = error
            process.kill()
        status = await process.wait()
        self._ended(failure or self._died(status, while_loading=not loaded.done()), loaded)

    def _dispatch(self, frame: FromWorker, loaded: asyncio.Future[Ready]) -> None:
        if isinstance(frame, StepFrame):
            self.stats = frame.stats
            for event in frame.events:
                if stream := self._streams.get(event.id):
                    stream.push(event)
        elif isinstance(frame, AdapterLoaded):
            self._adapter_loaded(frame)
        elif isinstance(frame, Progress):
            self.progress = frame
        elif isinstance(frame, Ready):
            # Here and not where the future is awaited: a death right after must find it ready.
            self.state, self.error, self.ready = "ready", None, frame
            loaded.set_result(frame)
        elif isinstance(frame, Failed) and not loaded.done():
            loaded.set_exception(frame.error.to_error())

    def _adapter_loaded(self, frame: AdapterLoaded) -> None:
        waiting = self._loading_adapters.pop(frame.id)
        if waiting.done():  # whoever wanted it has gone
            self._post(UnloadAdapter(frame.id))
        elif frame.error:
            waiting.set_exception(frame.error.to_error())
        else:
            waiting.set_result(frame)

    def _ended(self, error: ShimmyError, loaded: asyncio.Future[Ready]) -> None:
        self._process = self.ready = None
        self.adapters.clear()
        for waiting in self._loading_adapters.values():
            if not waiting.done():
                waiting.set_exception(error)
        self._loading_adapters.clear()
        for stream in self._streams.values():
            stream.fail(error)
        if not loaded.done():
            loaded.set_exception(error)
            return
        if self.state != "ready" or self._closing:
            return
        log.error("%s", error)
        self.state = "restarting"
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        for pause in itertools.chain(RESTART_PAUSES, itertools.repeat(RESTART_PAUSES[-1])):
            await asyncio.sleep(pause)
            try:
                await self.start()
                return
            except ShimmyError as error:
                log.error("the engine of %r cannot be started again: %s", self.model_name, error)

    def _died(self, status: int, *, while_loading: bool) -> WorkerDiedError:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        if while_loading:
            message = f"the engine process of {self.model_name!r} ended while loading the model ({how})."
            return WorkerDiedError(message, hint="The server's log says more; the next request tries again.")
        message = f"the engine process of {self.model_name!r} ended unexpectedly ({how})."
        return WorkerDiedError(message, hint="It is being restarted; send the request again.")

    async def _send(self, frame: ToWorker) -> None:
        self._post(frame)
        if self._process and self._process.stdin:
            # A dead worker is reported by the reader, to everyone at once.
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.drain()

    def _post(self, frame: ToWorker) -> None:
        if self._process and self._process.stdin and not self._process.stdin.is_closing():
            self._process.stdin.write(pack(frame))
