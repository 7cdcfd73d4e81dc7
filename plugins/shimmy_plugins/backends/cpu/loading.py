"""Weights packed for kernels: tensor by tensor and slice by slice, so little is held twice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

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
    """The weights of a graph in the form kernels read; a tensor used twice is there once."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, F32] = {}

    @property
    def bytes(self) -> int:
        return sum(m.data.nbytes for m in self._matrices.values())

    def load(self, names: Sequence[str], threads: int, progress: Progress) -> None:
        """Pack matrices, some at a time. OutOfMemoryError if they will not fit."""
        layouts = [layout_of(self._weights.run_layout(name, slice(0, 1))) for name in names]
        shapes = [self._shape(name, layout) for name, layout in zip(names, layouts, strict=True)]
        sizes = [prod(shape) * layout.block.itemsize for shape, layout in zip(shapes, layouts, strict=True)]
        require_memory("memory for the weights of the model", sum(sizes))
        with ThreadPoolExecutor(threads) as workers:
            packed = workers.map(self._pack, names, layouts)
            for done, (name, matrix) in enumerate(zip(names, packed, strict=True)):
                progress("weights", done, len(names))
                self._matrices[name] = matrix
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

    def _shape(self, name: str, layout: Layout) -> tuple[int, int]:
        """Row groups and blocks of columns."""
        rows, columns = self._weights.shape(name)
        return -(-rows // LANES), -(-columns // layout.columns)

    def _pack(self, name: str, layout: Layout) -> Matrix:
        """Pack to ``layout``, or to a wider one if some row turns out not to fit."""
        rows, columns = self._weights.shape(name)
        data = aligned(self._shape(name, layout), layout.block)
        step = max(SLICE_ELEMENTS // columns // LANES, 1) * LANES
        for start in range(0, rows, step):
            end = min(start + step, rows)
            run = self._weights.run_layout(name, slice(start, end))
            if not layout.holds(run):
                return self._pack(name, layout_of(run))
            layout.fill(data[start // LANES : -(-end // LANES)], run)
        return Matrix(layout, rows, columns, data)
