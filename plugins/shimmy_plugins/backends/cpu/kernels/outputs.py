"""What matrix products have in common: the rows of a weight they take together, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields
from shimmy_plugins.backends.cpu.kernels.fragments import BYTE
from shimmy_plugins.backends.cpu.layouts import Layout
from shimmy_plugins.backends.cpu.values import F32, I32, I64, Operand, Pointer, Value, vector


class Output(Protocol):
    """Emits the beginning and the end of sums; vectors may have fewer than 16 lanes."""

    def start(self, column: Value, lanes: int) -> Value:
        """What the columns of y from ``column`` on begin with."""
        ...

    def put(self, row: Value, column: Value, y: Value) -> None:
        """Store columns of the result for a row of x."""
        ...


@dataclass(frozen=True, slots=True)
class RowGroup:
    """16 rows of a weight."""

    weight: Pointer
    """Where they lie."""
    number: Value
    """Their results are columns 16 * number and following."""
    output: Output

    @classmethod
    def of(cls, f: Fields, layout: Layout, number: Value, output: Output, before: Operand = 0) -> Self:
        """A group with so many groups of other matrices ``before`` those of its own."""
        at = (number + before) * f.size("blocks") * layout.block.itemsize
        return cls(f.pointer("weight", BYTE) + at, number, output)


@dataclass(frozen=True, slots=True)
class Rows:
    """y has a row for each row of x; sums begin with the bias. y is padded to whole vectors."""

    f: Fields

    def start(self, column: Value, lanes: int) -> Value:
        return self.f.pointer("bias").vector(column, lanes)

    def put(self, row: Value, column: Value, y: Value) -> None:
        self.f.pointer("y")[row * self.f.size("y_stride") + column] = y


@dataclass(frozen=True, slots=True)
class Entries:
    """The rows of x are places of a routing; y has the rows of a token's experts side by side."""

    e: Emitter
    f: Fields

    def start(self, column: Value, lanes: int) -> Value:
        del column
        return self.e.coerce(0.0, vector(F32, lanes))

    def put(self, row: Value, column: Value, y: Value) -> None:
        token, number = (self.f.pointer("entries", I32)[row * 2 + word].widen(I64) for word in range(2))
        size = self.f.size("size")
        at = token * self.f.size("y_stride") + number * size + column
        # Behind the last column the next expert's begin.
        left = self.e.maximum(size, column) - column
        self.f.pointer("y").put_first(left, y, at)
