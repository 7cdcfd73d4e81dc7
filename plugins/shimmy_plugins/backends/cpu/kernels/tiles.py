"""Rows of x taken in tiles: what is loaded for one row of a tile serves the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.values import Value, Variable


def tiles(e: Emitter, rows: Value, sizes: Sequence[int]) -> Iterator[tuple[Value, int]]:
    """Each tile's first row and size, for code to be emitted once per size: the largest first.

    ``sizes`` are descending and end with 1, so that no row is left over.
    """
    row = e.variable(e.int(0))
    for size in sizes:
        with e.loop_while(_is_whole(row, size, rows)):
            yield row.value, size
            row.value = row.value + size


def _is_whole(row: Variable, size: int, rows: Value) -> Callable[[], Value]:
    """The condition that as many rows are left."""
    return lambda: row.value + (size - 1) < rows
