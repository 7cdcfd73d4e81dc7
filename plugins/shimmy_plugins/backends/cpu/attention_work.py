"""How the attention of a step is divided among threads; made anew for each step.

Rows of prompts are taken in tiles: adjacent rows of one sequence, which see nearly the same
positions. A row alone, as generated tokens are, is taken in pieces of its context. Which it is has
no effect on a row's bits: either way the results of pieces are added in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Limits
from shimmy.graph.batch import Batch
from shimmy_plugins.backends.cpu.memory import aligned_floats

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

#: Positions in a piece of context. It decides on the order of additions, so nothing else may change it.
PIECE_TOKENS = 128
#: Tiles per thread at least, where there are rows enough: so that all threads finish together.
_TILES_PER_THREAD = 8


@dataclass(frozen=True, slots=True)
class Division:
    """What decides on the size of tiles."""

    kv_heads: int
    unit: int
    """Rows that fill the registers."""
    most: int
    """Rows, a multiple of ``unit``, whose state fits the processor's cache."""

    def rows(self, prompt_rows: int, threads: int) -> int:
        """Rows of a tile."""
        wanted = prompt_rows * self.kv_heads // (threads * _TILES_PER_THREAD)
        return min(max(wanted // self.unit * self.unit, self.unit), self.most)


@dataclass(frozen=True, slots=True)
class Tiles:
    """(first row, rows) of each tile; ``count`` is one word."""

    array: I32
    count: I64


class AttentionWork:
    """The lists that attention kernels read, and memory for the results of pieces."""

    def __init__(self, limits: Limits) -> None:
        self._threads = limits.threads
        self._most_rows = limits.step_tokens
        pieces = -(-limits.max_ctx // PIECE_TOKENS)
        alone = min(limits.max_sequences, limits.step_tokens)
        header = np.zeros(3, np.int64)
        self.piece_count, self.alone_count, self.results = (header[i : i + 1] for i in range(3))
        """``results`` holds the address of the memory, which moves as it grows."""
        self.pieces = np.zeros((alone * pieces, 2), np.int32)
        """(row, number of the piece) of each piece."""
        self.alone = np.zeros((alone, 3), np.int32)
        """(row, its first piece in ``pieces``, how many it has) of each row alone."""
        self._tiles: dict[Division, Tiles] = {}
        self._piece_floats = 0
        self._memory = aligned_floats(0)

    def tiles(self, division: Division) -> Tiles:
        """The list of tiles that a division gives."""
        if division not in self._tiles:
            array = np.zeros((self._most_rows, 2), np.int32)
            self._tiles[division] = Tiles(array, np.zeros(1, np.int64))
        return self._tiles[division]

    def require(self, piece_floats: int) -> None:
        """A layer's results of a piece take so many floats."""
        self._piece_floats = max(self._piece_floats, piece_floats)

    def fill(self, batch: Batch) -> None:
        """Divide a step."""
        starts = np.flatnonzero(np.diff(batch.slots, prepend=-1))
        counts = np.diff(starts, append=len(batch.slots))
        self._fill_pieces(starts[counts == 1], batch.positions)
        runs = [*zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True)]
        for division, tiles in self._tiles.items():
            size = division.rows(sum(count for _, count in runs), self._threads)
            found = list(_cut(runs, size))
            tiles.count[0] = len(found)
            if found:
                tiles.array[: len(found)] = found

    def _fill_pieces(self, rows: I64, positions: I32) -> None:
        numbers = positions[rows] // PIECE_TOKENS + 1
        ends = np.cumsum(numbers)
        total = int(ends[-1]) if len(ends) else 0
        self.alone_count[0], self.piece_count[0] = len(rows), total
        self.alone[: len(rows)] = np.stack([rows, ends - numbers, numbers], axis=1)
        self.pieces[:total, 0] = np.repeat(rows, numbers)
        self.pieces[:total, 1] = np.arange(total) - np.repeat(ends - numbers, numbers)
        if total * self._piece_floats > len(self._memory):
            # Twice as much as is needed now: a growing sequence asks seldom.
            self._memory = aligned_floats(2 * total * self._piece_floats)
        self.results[0] = self._memory.ctypes.data


def _cut(runs: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of the tiles of all runs of rows."""
    for start, count in runs:
        for first in range(0, count, size):
            yield start + first, min(size, count - first)
