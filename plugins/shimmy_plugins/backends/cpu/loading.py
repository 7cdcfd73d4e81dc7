"""Weights packed for kernels: slice by slice on all threads, so little is held twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Progress
from shimmy.gguf.weights import Weights
from shimmy_plugins.backends.cpu.emitter import LANES
from shimmy_plugins.backends.cpu.layouts import Layout, Packed, layout_of
from shimmy_plugins.backends.cpu.memory import aligned, aligned_floats, require_memory, round_up

F32 = NDArray[np.float32]

#: Weights unpacked at a time: small enough for the processor's cache, in a few forms.
SLICE_ELEMENTS = 1 << 19
#: Rows by which a tensor's layout is guessed.
_FIRST_ROWS = slice(0, LANES)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix: ``data`` is (row groups, blocks) of ``layout.block``."""

    layout: Layout
    rows: int
    columns: int
    data: Packed


class PackedWeights:
    """The weights of a graph in the form kernels read; a tensor used twice is there once."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, F32] = {}

    @property
    def bytes(self) -> int:
        return sum(m.data.nbytes for m in self._matrices.values())

    def load(self, names: Sequence[str], threads: int, progress: Progress) -> None:
        """Pack matrices, some slices at a time. OutOfMemoryError if they will not fit."""
        for name in names:
            first = self._weights.run_layout(name, _FIRST_ROWS)
            self._matrices[name] = self._empty(name, layout_of(first))
        require_memory("memory for the weights of the model", self.bytes)
        with ThreadPoolExecutor(threads) as workers:
            for done, name in enumerate(names):
                progress("weights", done, len(names))
                self._pack(name, workers)
                self._weights.release(name)
        progress("weights", len(names), len(names))

    def matrix(self, name: str) -> Matrix:
        """A matrix that ``load`` has packed."""
        return self._matrices[name]

    def vector(self, name: str) -> F32:
        """A vector, padded with zeros to whole SIMD vectors."""
        if name not in self._vectors:
            values = self._weights.dequantize(name).ravel()
            padded = aligned_floats(round_up(len(values)))
            padded[: len(values)] = values
            self._vectors[name] = padded
        return self._vectors[name]

    def _empty(self, name: str, layout: Layout) -> Matrix:
        """A matrix of a layout; it takes memory only as it is filled."""
        rows, columns = self._weights.shape(name)
        shape = (-(-rows // LANES), -(-columns // layout.columns))
        return Matrix(layout, rows, columns, aligned(shape, layout.block))

    def _pack(self, name: str, workers: ThreadPoolExecutor) -> None:
        """Fill a matrix; once more in a wider layout if some row turned out not to fit."""
        matrix = self._matrices[name]
        needed = list(workers.map(lambda rows: self._pack_slice(name, matrix, rows), _slices(matrix)))
        layout = reduce(lambda a, b: a.joined(b), needed)
        if layout != matrix.layout:
            self._matrices[name] = self._empty(name, layout)
            self._pack(name, workers)

    def _pack_slice(self, name: str, matrix: Matrix, rows: slice) -> Layout:
        """Pack some rows if the matrix's layout holds them; the layout that would."""
        run = self._weights.run_layout(name, rows)
        layout = matrix.layout.widened_for(run)
        if layout == matrix.layout:
            layout.fill(matrix.data[rows.start // LANES : -(-rows.stop // LANES)], run)
        return layout


def _slices(matrix: Matrix) -> Iterator[slice]:
    """Whole row groups, together all rows."""
    step = max(SLICE_ELEMENTS // matrix.columns // LANES, 1) * LANES
    for start in range(0, matrix.rows, step):
        yield slice(start, min(start + step, matrix.rows))
