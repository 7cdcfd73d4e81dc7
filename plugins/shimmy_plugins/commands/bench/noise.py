"""How much of the machine other programs used while something was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

#: The system counts processor time in steps of this many seconds, for each processor.
TICK = 0.01
#: A stretch of seconds without others that is taken for a quiet machine.
MOMENT = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """Clocks at one moment, in seconds."""

    wall: float
    busy: float
    """Processor time used by anything on the machine, other virtual machines included if known."""
    own: float
    """Processor time used by this program and all that it started."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One measurement."""

    seconds: float
    foreign: float
    """Share of the machine's processor time that other programs used meanwhile, 0 to 1."""


@dataclass(slots=True)
class Window:
    """A stretch of time; ``timed`` is set at its end."""

    timed: Timed | None = None

    def result(self) -> Timed:
        """The measurement. The window must have ended."""
        assert self.timed is not None
        return self.timed


class Meter:
    """Times stretches of work. ``read`` and ``cpus`` are for tests."""

    def __init__(self, read: Callable[[], Reading] | None = None, cpus: int | None = None) -> None:
        self._process = psutil.Process()
        self._read = read or self._reading
        self._cpus = cpus or psutil.cpu_count() or 1

    @contextmanager
    def window(self) -> Iterator[Window]:
        """``with meter.window() as window: work()``, then ``window.result()``."""
        window = Window()
        before = self._read()
        # Looking at all processes takes a millisecond, which is not part of the work.
        started = time.perf_counter()
        yield window
        seconds = time.perf_counter() - started
        window.timed = Timed(seconds, foreign_share(before, self._read(), self._cpus))

    def _reading(self) -> Reading:
        return Reading(time.perf_counter(), _busy(), _used(self._process))


class Patience:
    """Waits for others to finish, ``seconds`` in all."""

    def __init__(self, meter: Meter, max_foreign: float, seconds: float) -> None:
        self._meter = meter
        self._max_foreign = max_foreign
        self._left = seconds

    def wait(self) -> None:
        """Until others used little of the machine for a moment, or patience ends."""
        while self._left > 0:
            with self._meter.window() as window:
                time.sleep(MOMENT)
            self._left -= MOMENT
            if window.result().foreign <= self._max_foreign:
                return


def foreign_share(before: Reading, after: Reading, cpus: int) -> float:
    """What others used between two readings, of all processor time there was.

    Less what the coarse clocks may have got wrong: one tick for each processor.
    """
    wall = after.wall - before.wall
    foreign = (after.busy - before.busy) - (after.own - before.own) - TICK * cpus
    return max(0.0, foreign) / (wall * cpus) if wall > 0 else 0.0


def _busy() -> float:
    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")
    return float(sum(getattr(times, kind, 0.0) for kind in kinds))


def _used(process: psutil.Process) -> float:
    """Of a process, of those it started and those they did, running or ended."""
    return sum(map(_own_time, [process, *process.children(recursive=True)]))


def _own_time(process: psutil.Process) -> float:
    # One may end while they are counted.
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return float(times.user + times.system + ended)
    return 0.0
