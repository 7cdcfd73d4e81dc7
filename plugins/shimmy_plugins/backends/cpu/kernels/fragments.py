"""How kernels read a block of each run layout: some columns of 16 rows (see ``layouts``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shimmy_plugins.backends.cpu.emitter import F16, F32, I8, I16, I32, LANES, Operand, Pointer, Value
from shimmy_plugins.backends.cpu.layouts import AffineLayout, FloatLayout, Layout

#: Blocks are addressed byte by byte.
BYTE = I8


class Fragment(Protocol):
    """Emits the reading of one layout as floats.

    ``block`` is the address of a block's bytes, ``group`` the number of a group of columns in it;
    vectors hold 16 rows.
    """

    @property
    def grouped(self) -> bool:
        """Whether a group has an offset, which takes the sum of the input's columns."""
        ...

    @property
    def together(self) -> int:
        """How many columns are unpacked together."""
        ...

    def columns(self, block: Pointer, index: Operand) -> list[Value]:
        """The columns from ``index * together`` on, as floats yet without scale and offset."""
        ...

    def weight(self, block: Pointer, group: Operand, code: Value) -> Value:
        """The weights of a column that ``columns`` gave."""
        ...

    def add(self, block: Pointer, group: Operand, y: Value, dot: Value, x_sum: Value) -> Value:
        """``y`` plus the group's share: ``dot`` is the sum of code times x, ``x_sum`` that of x."""
        ...


@dataclass(frozen=True, slots=True)
class AffineFragment:
    """weight = scale * code + offset"""

    layout: AffineLayout
    grouped: bool = True

    @property
    def together(self) -> int:
        return 32 // self.layout.bits

    def columns(self, block: Pointer, index: Operand) -> list[Value]:
        word = self.word(block, index)
        shifts = [part + byte for part in range(0, 8, self.layout.bits) for byte in (0, 8, 16, 24)]
        return [(word >> shift & (2**self.layout.bits - 1)).to_float() for shift in shifts]

    def quads(self, block: Pointer, index: Operand) -> list[Value]:
        """The columns from ``index * together`` on, four in the bytes of a 32-bit lane."""
        word = self.word(block, index)
        return [word] if self.layout.bits == 8 else [word & 0x0F0F0F0F, word >> 4 & 0x0F0F0F0F]

    def word(self, block: Pointer, index: Operand) -> Value:
        """A word of each row."""
        return block.cast(I32).vector(index * LANES)

    def weight(self, block: Pointer, group: Operand, code: Value) -> Value:
        return block.emitter.fma(code, self.scale(block, group), self.offset(block, group))

    def add(self, block: Pointer, group: Operand, y: Value, dot: Value, x_sum: Value) -> Value:
        e = block.emitter
        return e.fma(self.offset(block, group), x_sum, e.fma(self.scale(block, group), dot, y))

    def scale(self, block: Pointer, group: Operand) -> Value:
        """The scales of a group of columns."""
        return self._field(block, "scales", group)

    def offset(self, block: Pointer, group: Operand) -> Value:
        """The offsets of a group of columns."""
        if self.layout.zero is None:
            return self._field(block, "offsets", group)
        return self.scale(block, group) * float(-self.layout.zero)

    def _field(self, block: Pointer, name: str, group: Operand) -> Value:
        field, at = block + self.layout.offset_of(name), group * LANES
        return field.cast(F16).vector(at).widen(F32) if self.layout.half else field.cast(F32).vector(at)


@dataclass(frozen=True, slots=True)
class FloatFragment:
    """Weights stored as floats; bfloat16 is the upper half of a float32."""

    layout: FloatLayout
    grouped: bool = False
    together: int = 4

    def columns(self, block: Pointer, index: Operand) -> list[Value]:
        first = index * self.together
        return [self._column(block, (first + i) * LANES) for i in range(self.together)]

    def weight(self, block: Pointer, group: Operand, code: Value) -> Value:
        del block, group
        return code

    def add(self, block: Pointer, group: Operand, y: Value, dot: Value, x_sum: Value) -> Value:
        del block, group, x_sum
        return y + dot

    def _column(self, block: Pointer, at: Operand) -> Value:
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
