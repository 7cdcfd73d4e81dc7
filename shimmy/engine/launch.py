"""Starts the processes of engine workers; one may be started before it is known for which model."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


class Workers:
    """Where engine clients get their processes from."""

    def __init__(self) -> None:
        self._spare: Process | None = None

    async def prepare(self) -> None:
        """Start a worker for whoever wants one first: its imports take as long as finding a model does.

        A system that cannot start it says so when it is asked for one.
        """
        with suppress(OSError):
            self._spare = await _start()

    async def take(self) -> Process:
        """A worker that waits for its first frame. Raises OSError if none can be started."""
        spare, self._spare = self._spare, None
        return spare if spare and spare.returncode is None else await _start()

    async def close(self) -> None:
        """End the worker nobody has taken."""
        spare, self._spare = self._spare, None
        if spare and spare.returncode is None:
            with suppress(ProcessLookupError):
                spare.kill()
            await spare.wait()


@dataclass(frozen=True, slots=True)
class Early:
    """What a server starts before it imports anything else, so that two cores work from the beginning."""

    runner: asyncio.Runner
    """The event loop to be."""
    workers: Workers
    """With a worker on that loop."""


@contextmanager
def early_start() -> Iterator[Early]:
    """Both for the block; the worker ends with it unless somebody has taken it."""
    workers = Workers()
    with asyncio.Runner() as runner:
        runner.run(workers.prepare())
        try:
            yield Early(runner, workers)
        finally:
            runner.run(workers.close())


async def _start() -> Process:
    # -P: the working directory must not shadow modules of the worker.
    command = (sys.executable, "-P", "-m", "shimmy.engine.worker")
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
