"""A model's weights in GPU memory: few large buffers, a slice of one for each part of a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import OutOfMemoryError
from shimmy.gguf.weights import Weights, mixed_layouts
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Buffer, Gpu, Slice
from shimmy_plugins.backends.wgpu.layouts import WORD, AffineLayout, GpuLayout, layout_of
from shimmy_plugins.backends.wgpu.packing import pack
from shimmy_plugins.backends.wgpu.unpacking import Unpacker, Unpacking, unpacking

#: Largest buffer that weights share: large enough for few of them, small enough to waste little in the last.
ARENA_BYTES = 512 << 20
#: Where slices begin.
ALIGNMENT = 256
#: Weights packed at a time: small enough for the processor's cache, large beside the cost of a call.
SLICE_ELEMENTS = 1 << 20
#: Slices after which the file's pages go back to the system.
_RELEASE = 64


@dataclass(frozen=True, slots=True)
class GpuMatrix:
    """One or more tensors, one below the other, or rows of one; a slice for each of the layout's parts."""

    layout: GpuLayout
    rows: int
    columns: int
    slices: tuple[Slice, ...]
    first: int = 0
    """The tensor's row that is the first one here."""


class GpuWeights:
    """Matrices and vectors of a model, loaded when they are first asked for."""

    def __init__(
        self, gpu: Gpu, weights: Weights, composer: Composer | None = None, names: Set[str] | None = None
    ) -> None:
        """With a composer the GPU takes blocks apart itself, if their type says how; else NumPy does.

        ``names``: what will be asked for, if that is not all.
        """
        self._gpu = gpu
        self._weights = weights
        self._names = frozenset(weights.names() if names is None else names)
        self._unpacker = Unpacker(gpu, composer) if composer else None
        self._unpackings: dict[tuple[int, GpuLayout], Unpacking | None] = {}
        """By the identity of the quant type."""
        self._layouts: dict[str, GpuLayout] = {}
        self._matrices: dict[tuple[str, ...], GpuMatrix] = {}
        self._pieces: dict[str, tuple[GpuMatrix, ...]] = {}
        self._vectors: dict[str, Slice] = {}
        self._arenas: list[_Arena] = []
        self.bytes = 0
        """Of matrices and vectors loaded so far."""
        self._placed_bytes = 0
        """The same, with what lies between them."""

    def matrix(self, names: Sequence[str]) -> GpuMatrix:
        """Tensors of one layout and width, one below the other; the same object for the same names.

        Raises:
            OutOfMemoryError: there is no room, or a part is larger than the GPU can bind.
            PluginError: rows of a tensor come in different layouts.
        """
        key = tuple(names)
        if key not in self._matrices:
            self._matrices[key] = self._load([(name, range(self._shape(name)[0])) for name in key])
        return self._matrices[key]

    def pieces(self, name: str, unit: int = 1) -> tuple[GpuMatrix, ...]:
        """A tensor in as few matrices as a shader can bind, of whole ``unit`` rows each, in order.

        Raises like :meth:`matrix`.
        """
        rows, most = self._shape(name)[0], self._most_rows(name) // unit * unit
        if rows <= most or not most:
            return (self.matrix([name]),)
        if name not in self._pieces:
            self._pieces[name] = tuple(
                self._load([(name, range(first, min(first + most, rows)))]) for first in range(0, rows, most)
            )
        return self._pieces[name]

    def vector(self, name: str) -> Slice:
        """A tensor as F32. Raises OutOfMemoryError."""
        if name not in self._vectors:
            self._vectors[name] = self._placed(self._weights.dequantize(name).ravel(), name)
        return self._vectors[name]

    def vectors(self, names: Sequence[str]) -> Slice:
        """Vectors as F32, one behind the other. Raises OutOfMemoryError."""
        key = "\n".join(names)
        if key not in self._vectors:
            values = np.concatenate([self._weights.dequantize(name).ravel() for name in names])
            self._vectors[key] = self._placed(values, " + ".join(names))
        return self._vectors[key]

    def size_of(self, name: str) -> int:
        """Bytes that a tensor takes on the GPU, with what lies between it and the next one."""
        rows, columns = self._shape(name)
        if len(self._weights.shape(name)) == 1:
            return _aligned(columns * WORD)
        parts = self._layout(name).parts
        return sum(_aligned(rows * part.row_words(columns) * WORD) for part in parts)

    def mergeable(self, names: Sequence[str]) -> bool:
        """Whether these tensors may be one matrix: all of one layout and width, small enough together."""
        return self._alike(names) and sum(self._shape(n)[0] for n in names) <= self._most_rows(names[0])

    def _alike(self, names: Sequence[str]) -> bool:
        return len({(self._layout(name), self._shape(name)[1]) for name in names}) == 1

    def _most_rows(self, name: str) -> int:
        """Rows like a tensor's that a shader can bind."""
        row = max(part.row_words(self._shape(name)[1]) for part in self._layout(name).parts)
        return self._gpu.limits.storage_binding // (row * WORD)

    def _placed(self, values: NDArray[np.float32], label: str) -> Slice:
        place = self._place(values.nbytes, label)
        self._gpu.upload(place, values)
        return place

    def _load(self, sources: Sequence[tuple[str, range]]) -> GpuMatrix:
        """Tensors, or rows of one."""
        names = [name for name, _ in sources]
        if not self._alike(names):
            found = ", ".join(f"{n!r} {self._layout(n).name} x {self._shape(n)[1]}" for n in names)
            raise ValueError(f"{found}: expected tensors of one layout and width.")
        layout, columns = self._layout(names[0]), self._shape(names[0])[1]
        count = sum(len(rows) for _, rows in sources)
        label = " + ".join(names)
        sizes = [count * part.row_words(columns) * WORD for part in layout.parts]
        slices = tuple(self._place(size, label) for size in sizes)
        matrix = GpuMatrix(layout, count, columns, slices, sources[0][1].start)
        first = 0
        for name, rows in sources:
            self._fill(name, rows, matrix, first)
            first += len(rows)
        return matrix

    def _fill(self, name: str, rows: range, matrix: GpuMatrix, first: int) -> None:
        """Fill the rows from ``first`` on with some of a tensor's."""
        how = self._unpacking(name)
        if self._unpacker and how:
            blocks = partial(self._blocks, name, rows.start)
            self._unpacker.fill(how, matrix.slices, first, len(rows), blocks)
        else:
            self._pack(name, rows, matrix, first)
        self._weights.release(name)

    def _unpacking(self, name: str) -> Unpacking | None:
        """How the GPU takes a tensor's blocks apart, if it can."""
        quant, layout = self._weights.unpacked_type(name), self._layout(name)
        if quant is None or not isinstance(layout, AffineLayout):
            return None
        key = (id(quant), layout)
        if key not in self._unpackings:
            self._unpackings[key] = unpacking(quant, layout)
        return self._unpackings[key]

    def _blocks(self, name: str, start: int, rows: slice) -> NDArray[np.uint8]:
        """(blocks, bytes of a block), rows from ``start`` on; those read before go back to the system."""
        self._weights.release(name)
        return self._weights.blocks(name, slice(start + rows.start, start + rows.stop))

    def _pack(self, name: str, source: range, matrix: GpuMatrix, first: int) -> None:
        """Fill rows by NumPy."""
        parts = list(zip(matrix.layout.parts, matrix.slices, strict=True))
        step = max(SLICE_ELEMENTS // matrix.columns, 1)
        for done, rows in enumerate(_slices(source, step)):
            run = self._weights.run_layout(name, rows)
            if (found := layout_of(run)) != matrix.layout:
                raise mixed_layouts(name, rows, found.name, matrix.layout.name)
            for words, (part, place) in zip(pack(matrix.layout, run), parts, strict=True):
                at = (first + rows.start - source.start) * part.row_words(matrix.columns) * WORD
                self._gpu.upload(place, words, at)
            if done % _RELEASE == _RELEASE - 1:
                self._weights.release(name)

    def _layout(self, name: str) -> GpuLayout:
        if name not in self._layouts:
            self._layouts[name] = layout_of(self._weights.run_layout(name, slice(0, 1)))
        return self._layouts[name]

    def _shape(self, name: str) -> tuple[int, int]:
        """Rows and columns."""
        shape = self._weights.shape(name)
        return prod(shape[:-1]), shape[-1]

    def _place(self, size: int, label: str) -> Slice:
        """Room in an arena, if none has any left in a new one: for all that is to come, unless too much."""
        if size > (most := self._gpu.limits.storage_binding):
            raise OutOfMemoryError(
                f"{label}: takes {size:,} bytes on the GPU in one piece, "
                f"of which {self._gpu.facts.name} can use {most:,}.",
                hint="Use the cpu backend for this model, or a file of a smaller type.",
            )
        left = self._all_bytes - self._placed_bytes
        self.bytes += size
        self._placed_bytes += _aligned(size)
        for arena in self._arenas:
            if place := arena.take(size):
                return place
        buffer = self._gpu.buffer(max(size, min(left, ARENA_BYTES, self._gpu.limits.buffer)), "weights")
        self._arenas.append(_Arena(buffer))
        place = self._arenas[-1].take(size)
        assert place is not None
        return place

    @cached_property
    def _all_bytes(self) -> int:
        return sum(map(self.size_of, self._names))


@dataclass(slots=True)
class _Arena:
    """A buffer that is handed out from its start to its end."""

    buffer: Buffer
    used: int = 0

    def take(self, size: int) -> Slice | None:
        """The next ``size`` bytes, if they are left."""
        if self.used + size > self.buffer.size:
            return None
        place = self.buffer.slice(self.used, size)
        self.used = _aligned(self.used + size)
        return place


def _aligned(size: int) -> int:
    """Up to where the next slice may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _slices(rows: range, step: int) -> Iterator[slice]:
    """All rows, so many at a time."""
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))
