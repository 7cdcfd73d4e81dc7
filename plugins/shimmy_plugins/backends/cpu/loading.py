"""Weights packed for kernels: slice by slice on all threads, so little is held twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Progress
from shimmy.gguf.quant import AffineRun
from shimmy.gguf.weights import Weights, mixed_layouts
from shimmy.graph.shapes import matrix
from shimmy_plugins.backends.cpu.kernel import Kernel, call_alone
from shimmy_plugins.backends.cpu.kernels import pack
from shimmy_plugins.backends.cpu.kernels.unpack import Unpacker
from shimmy_plugins.backends.cpu.layouts import Layout, Packed, Run, layout_of
from shimmy_plugins.backends.cpu.memory import aligned, aligned_floats, require_memory, round_up
from shimmy_plugins.backends.cpu.packed_cache import PackedCache, Place
from shimmy_plugins.backends.cpu.values import LANES

F32 = NDArray[np.float32]

#: Weights unpacked at a time: small enough for the processor's cache, large beside the cost of a call.
SLICE_ELEMENTS = 1 << 19
#: Slices after which the file's pages go back to the system, for tensors that are large themselves.
_RELEASE = 128
#: What loading is when nothing had to be packed.
MAPPED = "packed weights, mapped"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix, or several alike: ``data`` is (row groups of all, blocks) of ``layout.block``."""

    layout: Layout
    count: int
    """How many matrices, each with row groups of its own."""
    rows: int
    columns: int
    data: Packed
    form: Run
    """Its first row: in what form the others come."""
    unpacker: Unpacker | None
    """Native code that takes the file's blocks apart, if the quant type provides for it."""


class _Slice(NamedTuple):
    """Rows of a tensor, and the row groups they are packed into."""

    rows: slice
    groups: slice


class PackedWeights:
    """The weights of a graph in the form kernels read; a tensor used twice is there once.

    First matrices are laid out, which takes no memory yet; kernels can be built for them. Then
    they are packed, by kernels too. Those that ``cache`` has are read-only, and packed already.
    """

    def __init__(self, weights: Weights, cache: PackedCache | None = None) -> None:
        self._weights = weights
        self._cache = cache
        self._mapped = False
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, F32] = {}
        self._unpackers: dict[int, Unpacker] = {}
        """By the identity of the quant type."""

    @property
    def bytes(self) -> int:
        return sum(m.data.nbytes for m in self._matrices.values())

    @property
    def mapped_bytes(self) -> int:
        """Part of ``bytes`` that is mapped from a file."""
        return self.bytes if self._mapped else 0

    def lay_out(self, names: Sequence[str]) -> None:
        """Find addresses for matrices: of the cache, else new ones. OutOfMemoryError if they will not fit."""
        forms = {name: self._weights.run_layout(name, slice(0, 1)) for name in names}
        places = {name: self._place(name, form) for name, form in forms.items()}
        found = self._cache.find(places) if self._cache else None
        self._mapped = found is not None
        for name, place in places.items():
            count, rows, columns = _matrices(self._weights.shape(name))
            data = found[name] if found else aligned(place.shape, place.layout.block)
            unpacker = None if found else self._unpacker(name)
            self._matrices[name] = Matrix(place.layout, count, rows, columns, data, forms[name], unpacker)
        require_memory("memory for the weights of the model", self.bytes)

    def kernels(self) -> list[Kernel]:
        """What ``load`` needs."""
        if self._mapped:
            return []
        packers = [pack.kernel(matrix.layout) for matrix in self._matrices.values()]
        unpackers = [unpacker.kernel for unpacker in self._unpackers.values()]
        return [*packers, *unpackers]

    def load(self, addresses: Mapping[str, int], threads: int, progress: Progress) -> None:
        """Pack all matrices, some slices at a time; ``addresses`` are those of the kernels by name.

        Raises:
            PluginError: rows of a tensor come in different forms.
        """
        if self._mapped:
            progress(MAPPED, len(self._matrices), len(self._matrices))
            return
        with ThreadPoolExecutor(threads) as workers:
            for done, (name, matrix) in enumerate(self._matrices.items()):
                progress("weights", done, len(self._matrices))
                slices = _slices(matrix)
                while some := list(islice(slices, _RELEASE)):
                    list(workers.map(partial(self._pack, addresses, name, matrix), some))
                    self._weights.release(name)
        progress("weights", len(self._matrices), len(self._matrices))
        if self._cache:
            self._cache.keep({name: matrix.data for name, matrix in self._matrices.items()}, progress)

    def matrix(self, name: str) -> Matrix:
        """A matrix that has been laid out."""
        return self._matrices[name]

    def vector(self, name: str) -> F32:
        """A vector, padded with zeros to whole SIMD vectors."""
        if name not in self._vectors:
            values = self._weights.dequantize(name).ravel()
            padded = aligned_floats(round_up(len(values)))
            padded[: len(values)] = values
            self._vectors[name] = padded
        return self._vectors[name]

    def _place(self, name: str, form: Run) -> Place:
        layout = layout_of(form)
        count, rows, columns = _matrices(self._weights.shape(name))
        return Place(layout, (count * -(-rows // LANES), -(-columns // layout.columns)), form)

    def _unpacker(self, name: str) -> Unpacker | None:
        quant = self._weights.unpacked_type(name)
        if quant is None:
            return None
        if id(quant) not in self._unpackers:
            self._unpackers[id(quant)] = Unpacker(quant)
        return self._unpackers[id(quant)]

    def _pack(self, addresses: Mapping[str, int], name: str, matrix: Matrix, part: _Slice) -> None:
        """Pack some rows, whole groups of them."""
        rows = part.rows
        if matrix.unpacker and isinstance(matrix.form, AffineRun):
            code = addresses[matrix.unpacker.kernel.name]
            blocks = self._weights.blocks(name, rows)
            run: Run = matrix.unpacker.run(code, blocks, matrix.form, rows.stop - rows.start)
        else:
            run = self._weights.run_layout(name, rows)
            if (layout := layout_of(run)) != matrix.layout:
                raise mixed_layouts(name, rows, layout.name, matrix.layout.name)
        packed = matrix.data[part.groups]
        kernel = pack.kernel(matrix.layout)
        call_alone(kernel, addresses[kernel.name], pack.fields(matrix.layout, packed, run))


def _matrices(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A tensor's matrices, and the rows and columns of each."""
    return (prod(shape[:-2]), *matrix(shape[-2:]))


def _slices(matrix: Matrix) -> Iterator[_Slice]:
    """Whole row groups, together all rows."""
    step = max(SLICE_ELEMENTS // matrix.columns // LANES, 1) * LANES
    groups = -(-matrix.rows // LANES)
    for number, start in product(range(matrix.count), range(0, matrix.rows, step)):
        end = min(start + step, matrix.rows)
        row, group = number * matrix.rows, number * groups
        yield _Slice(slice(row + start, row + end), slice(group + start // LANES, group + -(-end // LANES)))
