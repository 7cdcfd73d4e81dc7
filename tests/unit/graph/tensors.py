"""A tensor table of names alone."""

from __future__ import annotations

from collections.abc import Sequence


class Tensors:
    """What a file would hold; every tensor has ``shape``."""

    def __init__(self, *names: str, shape: tuple[int, ...] = (16,)) -> None:
        self._names = names
        self._shape = shape

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def names(self) -> Sequence[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shape
