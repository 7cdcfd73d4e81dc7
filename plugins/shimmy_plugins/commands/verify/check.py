"""One comparison, and how errors are measured."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison."""

    kind: str
    """What was compared: a key of :data:`.checks.LIMITS`, "blocks" or "references"."""
    label: str
    """The tensor, node, layer, stretch of tokens or prompt."""
    group: str
    """What it is one of: the type of a tensor, the op of a node, tokens or logits of an answer."""
    phase: str
    """"prompt" or "generated"; nothing where numbers are only read."""
    elements: int
    """Numbers compared."""
    error: float
    """The largest; infinite where a result is no number."""
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit

    @property
    def strain(self) -> float:
        """The error as a part of what is allowed."""
        return relative(self.error, self.limit)


def relative(difference: float, size: float) -> float:
    """A relative error."""
    if not np.isfinite(difference):
        return inf
    return float(difference / size) if size else (inf if difference else 0.0)
