"""A program under construction: activations, calls of kernels, where threads must meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy_plugins.backends.cpu.kernel import FieldValue, Kernel
from shimmy_plugins.backends.cpu.layouts import STRIP_COLUMNS
from shimmy_plugins.backends.cpu.memory import aligned_floats, round_up

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Activations: rows of ``width`` floats, each padded with zeros to whole blocks of columns.

    Kernels keep the padding zero or leave it alone, so they need no care for the last vector.
    """

    array: F32
    """(most rows, ``padded`` or more)."""
    width: int
    rows: I64
    """One word: how many rows this step has."""
    whole: Tensor | None = None
    """What this is a part of, seen by itself."""

    @property
    def stride(self) -> int:
        """Floats from one row to the next."""
        return self.array.strides[0] // self.array.itemsize

    @property
    def padded(self) -> int:
        """Floats of a row, with its padding."""
        return round_up(self.width, STRIP_COLUMNS)

    @property
    def memory(self) -> Tensor:
        """What holds it."""
        return self.whole or self

    @property
    def address(self) -> int:
        """Of its memory: parts of a tensor share it."""
        return int(self.memory.array.ctypes.data)

    def part(self, start: int, size: int) -> Tensor | None:
        """Some columns, without a copy; None where they would have no padding of zeros."""
        if size % STRIP_COLUMNS:
            return None
        return Tensor(self.array[:, start : start + size], size, self.rows, self.memory)

    def values(self) -> F32:
        """The rows of this step, without padding."""
        return self.array[: int(self.rows[0]), : self.width]


class Buffers:
    """Memory of activations, used again once nobody reads it any more."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._free: dict[int, list[F32]] = {}
        self.bytes = 0

    def take(self, width: int, rows: I64) -> Tensor:
        # Only buffers of the same width are exchanged: the padding stays zero.
        free = self._free.setdefault(width, [])
        if not free:
            free.append(aligned_floats(self._most_rows, round_up(width, STRIP_COLUMNS)))
            self.bytes += free[-1].nbytes
        return Tensor(free.pop(), width, rows)

    def give_back(self, tensor: Tensor) -> None:
        self._free[tensor.memory.width].append(tensor.memory.array)


@dataclass(slots=True)
class Call:
    """One kernel with its arguments; ``meet``: the next call needs this one and those before it done."""

    kernel: Kernel
    block: I64
    meet: bool = False


#: A stretch of the table, or a function of Python to run between two of them.
Stretch: TypeAlias = "tuple[int, int] | Callable[[], None]"


@dataclass(slots=True)
class Program:
    """Calls in order. Two calls run side by side unless one touches what the other writes."""

    calls: list[Call] = field(default_factory=list)
    functions: list[tuple[int, Callable[[], None] | None]] = field(default_factory=list)
    """Functions of Python, each with the number of calls before it; None: a part ends."""
    _read: set[int] = field(default_factory=set)
    _written: set[int] = field(default_factory=set)
    _kept: list[object] = field(default_factory=list)

    def call(
        self,
        kernel: Kernel,
        fields: Mapping[str, FieldValue],
        *,
        reads: Iterable[int],
        writes: Iterable[int],
    ) -> None:
        """Append a call. ``reads`` and ``writes`` are addresses of memory that calls may share."""
        reads, writes = set(reads), set(writes)
        if (reads | writes) & self._written or writes & self._read:
            self._meet()
        self._read |= reads
        self._written |= writes
        self._kept += fields.values()
        self.calls.append(Call(kernel, kernel.block(fields)))

    def function(self, function: Callable[[], None]) -> None:
        """Append a function that runs on the calling thread alone."""
        self._meet()
        self.functions.append((len(self.calls), function))

    def end_part(self) -> None:
        """What follows is run apart from what is there."""
        self._meet()
        self.functions.append((len(self.calls), None))

    def kernels(self) -> list[Kernel]:
        """Each kernel once."""
        return list({call.kernel.name: call.kernel for call in self.calls}.values())

    def link(self, addresses: Mapping[str, int]) -> tuple[I64, list[list[Stretch]]]:
        """The table of (kernel, argument block, meet, claimed), and the stretches of each part."""
        self.end_part()
        rows = [(addresses[c.kernel.name], c.block.ctypes.data, int(c.meet), 0) for c in self.calls]
        parts: list[list[Stretch]] = [[]]
        begin = 0
        for end, function in self.functions:
            if begin < end:
                parts[-1].append((begin, end))
            if function:
                parts[-1].append(function)
            else:
                parts.append([])
            begin = end
        return np.array(rows, np.int64).reshape(-1, 4), parts[:-1]

    def _meet(self) -> None:
        if self.calls:
            self.calls[-1].meet = True
        self._read.clear()
        self._written.clear()
