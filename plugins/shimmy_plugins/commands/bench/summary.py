"""Median and interquartile range: what is said of a set of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Summary:
    """A set of samples in four numbers."""

    median: float
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""
    count: int


def summarize(values: Sequence[float]) -> Summary | None:
    """None if there are no values. Quartiles are interpolated between neighbours."""
    if not values:
        return None
    ordered = sorted(values)
    return Summary(median(ordered), quantile(ordered, 0.25), quantile(ordered, 0.75), len(ordered))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of sorted values lies; the 99th percentile for 0.99."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
