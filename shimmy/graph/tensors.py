"""What recording a graph needs to know of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TensorTable(Protocol):
    """What recording needs to know of a model file: which tensors there are, and their shapes."""

    def __contains__(self, name: object) -> bool: ...

    def names(self) -> Sequence[str]: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape with rows first: (rows, columns) of a matrix, (n,) of a vector."""
        ...
