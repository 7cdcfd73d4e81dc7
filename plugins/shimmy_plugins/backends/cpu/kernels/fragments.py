"""How kernels read a block of each run layout: some columns of 16 rows (see ``layouts``).

Columns come in pairs because a byte of 4-bit codes holds two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shimmy_plugins.backends.cpu.emitter import (
    F16,
    F32,
    I8,
    I16,
    I32,
    LANES,
    Pointer,
    Value,
)
from shimmy_plugins.backends.cpu.layouts import AffineLayout, FloatLayout, Layout


class Fragment(Protocol):
    """Emits the reading of one layout. ``block`` is the address of a block's bytes; vectors hold 16 rows."""

    @property
    def grouped(self) -> bool:
        """Whether a block has an offset, which takes the sum of the input's columns."""
        ...

    def pair(self, block: Pointer, index: Value) -> tuple[Value, Value]:
        """Columns 2 * index and 2 * index + 1, as floats yet without scale and offset."""
        ...

    def weight(self, block: Pointer, code: Value) -> Value:
        """The weights of a column that ``pair`` gave."""
        ...

    def add(self, block: Pointer, y: Value, dot: Value, x_sum: Value) -> Value:
        """``y`` plus the block's share: ``dot`` is the sum of code times x, ``x_sum`` that of x."""
        ...


@dataclass(frozen=True, slots=True)
class AffineFragment:
    """weight = scale * code + offset"""

    layout: AffineLayout
    grouped: bool = True

    def pair(self, block: Pointer, index: Value) -> tuple[Value, Value]:
        if self.layout.bits == 4:
            both = block.vector(index * LANES).widen(I32)
            return (both & 15).to_float(), (both >> 4).to_float()
        even = block.vector(index * (2 * LANES))
        odd = block.vector(index * (2 * LANES) + LANES)
        return even.widen(I32).to_float(), odd.widen(I32).to_float()

    def weight(self, block: Pointer, code: Value) -> Value:
        return block.emitter.fma(code, self._field(block, "scales"), self._field(block, "offsets"))

    def add(self, block: Pointer, y: Value, dot: Value, x_sum: Value) -> Value:
        e = block.emitter
        return e.fma(self._field(block, "offsets"), x_sum, e.fma(self._field(block, "scales"), dot, y))

    def _field(self, block: Pointer, name: str) -> Value:
        field = block + self.layout.offset_of(name)
        return field.cast(F16).vector().widen(F32) if self.layout.half else field.cast(F32).vector()


@dataclass(frozen=True, slots=True)
class FloatFragment:
    """Weights stored as floats; bfloat16 is the upper half of a float32."""

    layout: FloatLayout
    grouped: bool = False

    def pair(self, block: Pointer, index: Value) -> tuple[Value, Value]:
        return self._column(block, index * (2 * LANES)), self._column(block, index * (2 * LANES) + LANES)

    def weight(self, block: Pointer, code: Value) -> Value:
        del block
        return code

    def add(self, block: Pointer, y: Value, dot: Value, x_sum: Value) -> Value:
        del block, x_sum
        return y + dot

    def _column(self, block: Pointer, at: Value) -> Value:
        match self.layout.name:
            case "f32":
                return block.cast(F32).vector(at)
            case "f16":
                return block.cast(F16).vector(at).widen(F32)
            case _:
                return (block.cast(I16).vector(at).widen(I32) << 16).bits(F32)


def fragment(layout: Layout) -> Fragment:
    """The fragment that reads ``layout``."""
    return AffineFragment(layout) if isinstance(layout, AffineLayout) else FloatFragment(layout)


#: Blocks are addressed byte by byte.
BYTE = I8
