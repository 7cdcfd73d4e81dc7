"""Taking samples until enough of them are clean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from shimmy_plugins.commands.bench.summary import Summary, summarize

#: At most this many times the wanted number is tried before a busy machine is accepted as one.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """How many samples, and which count."""

    repetitions: int = 10
    warmup: int = 1
    max_foreign: float = 0.05
    """Samples with a larger share of foreign processor time are dropped."""
    wait: float = 0.0
    """Seconds, for each case, to spend waiting for a quiet machine after dropped samples."""
    warm: float = 0.0
    """Seconds that each measure works before samples count: a GPU that was idle is slow at first."""


class Sample(Protocol):
    """Whatever was measured."""

    @property
    def foreign(self) -> float:
        """Share of the machine's processor time that other programs used meanwhile, 0 to 1."""
        ...


S = TypeVar("S", bound=Sample)


@dataclass(slots=True)
class Samples(Generic[S]):
    """Samples taken together, one of each engine: a tuple of one, or a pair."""

    kept: list[tuple[S, ...]] = field(default_factory=list)
    dropped: list[tuple[S, ...]] = field(default_factory=list)

    def summary(self, value: Callable[[tuple[S, ...]], float]) -> Summary | None:
        """Of a value computed from samples taken together."""
        return summarize([value(taken) for taken in self.kept])

    @property
    def foreign(self) -> float:
        """The median share of foreign processor time of all samples, kept or not."""
        found = summarize([max(s.foreign for s in taken) for taken in (*self.kept, *self.dropped)])
        return found.median if found else 0.0


def collect(
    measures: Sequence[Callable[[], S]], rules: Rules, settle: Callable[[], None] = lambda: None
) -> Samples[S]:
    """Call all measures in turn until ``rules.repetitions`` rounds are clean.

    Every other round goes backwards, so that none is always the first. One sample that is not
    clean drops its round, and ``settle`` is called, which may wait. Gives up after :data:`TRIES`
    times the rounds wanted.
    """
    for measure in measures:
        started, done = time.perf_counter(), 0
        while done < rules.warmup or time.perf_counter() - started < rules.warm:
            measure()
            done += 1
    samples: Samples[S] = Samples()
    for number in range(TRIES * rules.repetitions):
        if len(samples.kept) == rules.repetitions:
            break
        order = range(len(measures)) if number % 2 == 0 else reversed(range(len(measures)))
        taken = {index: measures[index]() for index in order}
        row = tuple(taken[index] for index in range(len(measures)))
        clean = all(sample.foreign <= rules.max_foreign for sample in row)
        (samples.kept if clean else samples.dropped).append(row)
        if not clean:
            settle()
    return samples
