"""The engine worker process: ``python -m shimmy.engine.worker``, frames on stdin and stdout.

It ends when its stdin ends, so it never outlives the server. The real stdout is kept for frames
alone; whatever else prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from shimmy.engine.protocol import (
    PROTOCOL_VERSION,
    AdapterLoaded,
    Cancel,
    ErrorInfo,
    Failed,
    FromWorker,
    Load,
    LoadAdapter,
    Progress,
    StepFrame,
    Submit,
    TokenEvent,
    ToWorker,
    UnloadAdapter,
    pack,
    read_frame,
    unpack_to_worker,
)
from shimmy.errors import EngineError, ShimmyError

if TYPE_CHECKING:
    from shimmy.engine.engine import Engine
    from shimmy.graph.lora import Terms

#: Reads the adapter at a path for the base: its rank, and what it adds.
Fit: TypeAlias = "Callable[[Path], tuple[int, Terms]]"

log = logging.getLogger("shimmy.engine")


@dataclass(frozen=True, slots=True)
class _Fitted:
    """An adapter that a thread has read; ``terms`` None: it could not."""

    terms: Terms | None
    facts: AdapterLoaded


class Worker:
    """Reads frames in a thread, adapters in others, computes in the main one."""

    def __init__(self, source: RawIOBase, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._inbox: queue.SimpleQueue[ToWorker | _Fitted | None] = queue.SimpleQueue()

    def run(self) -> int:
        """Serve until stdin ends; the exit status."""
        threading.Thread(target=self._read, name="frames", daemon=True).start()
        # The server may yet have to find the model. What is wrong with these is told when they are needed.
        with contextlib.suppress(Exception):
            import shimmy.engine.load  # noqa: F401
        first = self._inbox.get()
        if first is None:
            return 0
        try:
            engine, fit = self._load(first)
        except Exception as error:
            if not isinstance(error, ShimmyError):
                log.exception("loading failed unexpectedly")
            self._send(Failed(ErrorInfo.of(error)))
            return 1
        self._serve(engine, fit)
        return 0

    def _load(self, first: ToWorker | _Fitted) -> tuple[Engine, Fit]:
        if not isinstance(first, Load) or first.version != PROTOCOL_VERSION:
            raise EngineError("server and engine worker are of different versions; restart shimmy.")
        # Imported here: the frame loop and its errors must work even if NumPy does not.
        from shimmy.engine.load import fit_adapter, load_engine
        from shimmy.plugins import PluginChoice, load_plugins

        s = first.settings
        plugins = load_plugins(
            PluginChoice(enabled=s.plugins_enabled, disabled=s.plugins_disabled, strict=s.strict_plugins)
        )

        def progress(phase: str, done: int, total: int) -> None:
            self._send(Progress(phase, done, total))

        loaded = load_engine(Path(first.model_path), first.model_name, s, plugins, progress)

        def fit(path: Path) -> tuple[int, Terms]:
            adapter, terms = fit_adapter(path, loaded.base, s, plugins)
            return adapter.rank, terms

        self._send(loaded.ready)
        return loaded.engine, fit

    def _serve(self, engine: Engine, fit: Fit) -> None:
        while True:
            # Blocks only when there is nothing to compute.
            while engine.idle or not self._inbox.empty():
                frame = self._inbox.get()
                if frame is None:
                    engine.close()
                    return
                if isinstance(frame, LoadAdapter):
                    # In a thread: reading files must not hold up everyone's next token.
                    threading.Thread(target=self._fit, args=(frame, fit), daemon=True).start()
                else:
                    self._handle(engine, frame)
            events = engine.step()
            self._send(StepFrame(events, engine.stats()))

    def _handle(self, engine: Engine, frame: ToWorker | _Fitted) -> None:
        if isinstance(frame, Cancel):
            engine.cancel(frame.id)
            if engine.idle:  # no step will tell the server that its blocks are free
                self._send(StepFrame([], engine.stats()))
        elif isinstance(frame, Submit):
            try:
                engine.submit(frame)
            except ShimmyError as error:
                event = TokenEvent(frame.id, None, "error", error=ErrorInfo.of(error))
                self._send(StepFrame([event], engine.stats()))
        elif isinstance(frame, UnloadAdapter):
            engine.adapters.forget(frame.id)
        elif isinstance(frame, _Fitted):
            self._put(engine, frame)

    def _fit(self, frame: LoadAdapter, fit: Fit) -> None:
        """Read an adapter's files and hand it to the main thread."""
        try:
            rank, terms = fit(Path(frame.path))
            size = sum(term.bytes for term in terms.values())
            self._inbox.put(_Fitted(terms, AdapterLoaded(frame.id, rank, len(terms), size)))
        except Exception as error:
            if not isinstance(error, ShimmyError):
                log.exception("reading an adapter failed unexpectedly")
            self._inbox.put(_Fitted(None, AdapterLoaded(frame.id, error=ErrorInfo.of(error))))

    def _put(self, engine: Engine, fitted: _Fitted) -> None:
        facts = fitted.facts
        try:
            if fitted.terms is not None:
                engine.adapters.put(facts.id, fitted.terms)
        except ShimmyError as error:
            facts = AdapterLoaded(facts.id, error=ErrorInfo.of(error))
        self._send(facts)

    def _read(self) -> None:
        try:
            while (body := read_frame(self._source)) is not None:
                self._inbox.put(unpack_to_worker(body))
        except (OSError, EngineError) as error:
            log.error("the server's frames cannot be read: %s", error)
        self._inbox.put(None)

    def _send(self, frame: FromWorker) -> None:
        self._sink.write(pack(frame))
        self._sink.flush()


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Ctrl-C reaches the whole group; the server decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        # Unbuffered: at exit nobody could take a buffer's lock from the thread that reads.
        source = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
        return Worker(source, sink).run()
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
