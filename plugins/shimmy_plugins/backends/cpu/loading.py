"""Weights packed for kernels: tensor by tensor and slice by slice, so little is held twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Progress
from shimmy.gguf.weights import Weights
from shimmy_plugins.backends.cpu.emitter import LANES
from shimmy_plugins.backends.cpu.layouts import Layout, Packed, layout_of
from shimmy_plugins.backends.cpu.memory import aligned, aligned_floats, require_memory, round_up

F32 = NDArray[np.float32]

#: Weights unpacked at a time: small enough for the processor's cache.
SLICE_ELEMENTS = 1 << 19


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix: ``data`` is (row groups, blocks) of ``layout.block``."""

    layout: Layout
    rows: int
    columns: int
    data: Packed


class PackedWeights:
    """The weights of a graph; a tensor used twice is packed once."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, F32] = {}

    @property
    def bytes(self) -> int:
        return sum(m.data.nbytes for m in self._matrices.values())

    def matrix(self, name: str) -> Matrix:
        """An empty matrix of the right layout: kernels are built around it before it is loaded."""
        if name not in self._matrices:
            rows, columns = self._weights.shape(name)
            layout = layout_of(self._weights.run_layout(name, slice(0, 1)))
            shape = (-(-rows // LANES), -(-columns // layout.columns))
            size = shape[0] * shape[1] * layout.block.itemsize
            require_memory(
                f"The model ({self.bytes / 2**20:.0f} MiB of weights and {name})", self.bytes + size
            )
            self._matrices[name] = Matrix(layout, rows, columns, aligned(shape, layout.block))
        return self._matrices[name]

    def vector(self, name: str) -> F32:
        """A vector, padded with zeros to whole SIMD vectors."""
        if name not in self._vectors:
            values = self._weights.dequantize(name).ravel()
            padded = aligned_floats(round_up(len(values)))
            padded[: len(values)] = values
            self._vectors[name] = padded
        return self._vectors[name]

    def load(self, progress: Progress) -> None:
        """Fill all matrices."""
        total, done = self.bytes, 0
        for name, matrix in self._matrices.items():
            progress("weights", done, total)
            self._fill(name, matrix)
            done += matrix.data.nbytes
        progress("weights", total, total)

    def _fill(self, name: str, matrix: Matrix) -> None:
        step = max(SLICE_ELEMENTS // matrix.columns // LANES, 1) * LANES
        for start in range(0, matrix.rows, step):
            rows = slice(start, min(start + step, matrix.rows))
            run = self._weights.run_layout(name, rows)
            groups = slice(start // LANES, -(-rows.stop // LANES))
            matrix.layout.fill(matrix.data[groups], run)
