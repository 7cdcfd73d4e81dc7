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
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from shimmy.engine.protocol import (
    PROTOCOL_VERSION,
    Cancel,
    ErrorInfo,
    Failed,
    FromWorker,
    Load,
    Progress,
    StepFrame,
    Submit,
    TokenEvent,
    ToWorker,
    pack,
    read_frame,
    unpack_to_worker,
)
from shimmy.errors import EngineError, ShimmyError

if TYPE_CHECKING:
    from shimmy.engine.engine import Engine

log = logging.getLogger("shimmy.engine")


class Worker:
    """Reads frames in a thread, computes in the main one."""

    def __init__(self, source: RawIOBase, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._inbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()

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
            engine = self._load(first)
        except Exception as error:
            if not isinstance(error, ShimmyError):
                log.exception("loading failed unexpectedly")
            self._send(Failed(ErrorInfo.of(error)))
            return 1
        self._serve(engine)
        return 0

    def _load(self, first: ToWorker) -> Engine:
        if not isinstance(first, Load) or first.version != PROTOCOL_VERSION:
            raise EngineError("server and engine worker are of different versions; restart shimmy.")
        # Imported here: the frame loop and its errors must work even if NumPy does not.
        from shimmy.engine.load import load_engine
        from shimmy.plugins import PluginChoice, load_plugins

        s = first.settings
        plugins = load_plugins(
            PluginChoice(enabled=s.plugins_enabled, disabled=s.plugins_disabled, strict=s.strict_plugins)
        )

        def progress(phase: str, done: int, total: int) -> None:
            self._send(Progress(phase, done, total))

        loaded = load_engine(Path(first.model_path), first.model_name, s, plugins, progress)
        self._send(loaded.ready)
        return loaded.engine

    def _serve(self, engine: Engine) -> None:
        while True:
            # Blocks only when there is nothing to compute.
            while engine.idle or not self._inbox.empty():
                frame = self._inbox.get()
                if frame is None:
                    engine.close()
                    return
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
            events = engine.step()
            self._send(StepFrame(events, engine.stats()))

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
