"""Rates of another day, on record as the JSON of ``shimmy bench``, and whether today's come up to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shimmy.errors import ConfigError
from shimmy_plugins.commands.bench.results import Result
from shimmy_plugins.commands.bench.workload import Case


@dataclass(frozen=True, slots=True)
class Change:
    """One row beside the baseline's."""

    label: str
    rate: float | None
    """Tokens per second, median; None: every sample was dropped."""
    expected: float
    tolerance: float
    """Part of ``expected`` that may be missing."""

    @property
    def passed(self) -> bool:
        return self.rate is not None and self.rate >= self.expected * (1 - self.tolerance)

    def __str__(self) -> str:
        if self.rate is None:
            return f"{self.label}: FAILED, no sample counts"
        verdict = "ok" if self.passed else f"FAILED, at most -{self.tolerance:.0%} is allowed"
        change = f"{self.expected:.1f} on record, {self.rate / self.expected - 1:+.1%}"
        return f"{self.label}: {self.rate:.1f} tok/s, {change}: {verdict}"


def read_baseline(path: Path, cases: Iterable[Case]) -> dict[Case, float]:
    """The medians of a report, for each case. Raises ConfigError if it is none, or has no row for a case."""
    try:
        rows = json.loads(path.read_text("utf-8"))["results"]
        keys = [(row["test"], row["tokens"], row["batch"], row["depth"]) for row in rows]
        found = {Case(*key): row["tokens_per_second"] for key, row in zip(keys, rows, strict=True)}
        rates = {case: float(rate["median"]) for case, rate in found.items() if rate}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a baseline: {error!r}.",
            hint=f"Write one with `shimmy bench … --json > {path.name}`.",
            param="--baseline",
        ) from error
    for case in cases:
        if case not in found:
            raise ConfigError(f"{path}: has no row for {_label(case)}.", param="--baseline")
        if case not in rates:
            raise ConfigError(
                f"{path}: has no rate for {_label(case)}: every sample was dropped.",
                hint="Write it again while nothing else runs, or with a higher --max-foreign.",
                param="--baseline",
            )
    return rates


def changes(results: Sequence[Result], baseline: Mapping[Case, float], tolerance: float) -> list[Change]:
    """Each row beside the baseline's."""
    rates = [(result.case, result.tokens_per_second()) for result in results]
    return [
        Change(_label(case), rate.median if rate else None, baseline[case], tolerance) for case, rate in rates
    ]


def _label(case: Case) -> str:
    return f"{case.label}, batch {case.batch}, depth {case.depth}"
