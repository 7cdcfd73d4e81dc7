"""Counts what the report hooks tell, in plain Python: the Prometheus library is for scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from shimmy import hookimpl
from shimmy.events import RequestFinished, RequestStarted

#: Upper bounds in seconds: from a cached token on a GPU to a long answer on a laptop.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(slots=True)
class Histogram:
    """Observations by upper bound; the last count is of those above all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """Prometheus's buckets: observations up to each bound."""
        reached = 0
        buckets = []
        for bound, count in zip((*SECONDS, "+Inf"), self.counts, strict=True):
            reached += count
            buckets.append((str(bound), reached))
        return buckets


@dataclass(slots=True)
class ModelCounts:
    """What one model has done through one frontend."""

    outcomes: Counter[str] = field(default_factory=Counter)
    active: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)


#: By frontend and model.
Counts: TypeAlias = dict[tuple[str, str], ModelCounts]


class Recorder:
    """A plugin that keeps the counts of one server."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    @hookimpl
    def request_started(self, event: RequestStarted) -> None:
        self._of(event).active += 1

    @hookimpl
    def request_finished(self, event: RequestFinished) -> None:
        counts = self._of(event)
        counts.active -= 1
        counts.outcomes[event.outcome] += 1
        counts.prompt_tokens += event.prompt_tokens
        counts.cached_tokens += event.cached_tokens
        counts.completion_tokens += event.completion_tokens
        counts.duration.observe(event.total_seconds)
        if event.first_token_seconds is not None:
            counts.first_token.observe(event.first_token_seconds)

    def _of(self, event: RequestStarted | RequestFinished) -> ModelCounts:
        return self.counts.setdefault((event.frontend, event.model), ModelCounts())
