"""How kernels read a strip of each run layout: some columns of 16 rows (see ``layouts``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol, TypeAlias

from shimmy_plugins.backends.cpu.kernels.lookup import LOOKUPS
from shimmy_plugins.backends.cpu.layouts import AffineLayout, FloatLayout, Layout, ScaleLayout, offset_of
from shimmy_plugins.backends.cpu.values import F16, F32, I8, I16, I32, LANES, Operand, Pointer, Value

#: Blocks are addressed byte by byte.
BYTE = I8
#: Columns in the bytes of a 32-bit lane.
QUAD = 4


class Strip(Protocol):
    """Emits the reading of one strip of a block, as floats.

    ``part`` is the number of a group of columns in the strip; vectors hold 16 rows.
    """

    def columns(self, part: int) -> Iterator[Value]:
        """The columns of a group in order, as floats yet without scale and offset."""
        ...

    def weight(self, part: int, number: Value) -> Value:
        """The weights of a column that ``columns`` gave."""
        ...

    def add(self, part: int, y: Value, dot: Value, x_sum: Value) -> Value:
        """``y`` plus the group's share: ``dot`` is the sum of number times x, ``x_sum`` that of x."""
        ...


@dataclass(frozen=True, slots=True)
class AffineStrip:
    """weight = scale * number + offset"""

    layout: AffineLayout
    block: Pointer
    index: Operand
    """Which strip of the block."""
    instructions: str
    """Those with which numbers are looked up: a key of ``lookup.LOOKUPS``."""
    first: Operand = 0
    lanes: int = LANES
    """Vectors hold so many of the 16 rows, from ``first`` on."""
    _words: dict[tuple[int, int], Value] = field(default_factory=dict)

    def columns(self, part: int) -> Iterator[Value]:
        for quad in self.quads(part):
            for byte in range(QUAD):
                yield (quad >> 8 * byte & 0xFF).to_float()

    def quads(self, part: int) -> Iterator[Value]:
        """The columns of a group as numbers, four in the bytes of a 32-bit lane."""
        quads, codebook = self.layout.group // QUAD, self.layout.codebook
        codes = (self._quad(i) for i in range(part * quads, (part + 1) * quads))
        if not codebook:
            return codes
        look_up = LOOKUPS[self.instructions]
        return (look_up(self.block.emitter, four, codebook) for four in codes)

    def weight(self, part: int, number: Value) -> Value:
        return self.block.emitter.fma(number, self.scale(part), self.offset(part))

    def add(self, part: int, y: Value, dot: Value, x_sum: Value) -> Value:
        e = self.block.emitter
        return e.fma(self.offset(part), x_sum, e.fma(self.scale(part), dot, y))

    def scale(self, part: int) -> Value:
        """The scales of a group of columns."""
        return self._scale("scale", self.layout.scales, part)

    def offset(self, part: int) -> Value:
        """The offsets of a group of columns."""
        if isinstance(self.layout.offsets, int):
            return self.scale(part) * float(-self.layout.offsets)
        return self._scale("offset", self.layout.offsets, part)

    def _quad(self, index: int) -> Value:
        """The codes of columns 4 * index to 4 * index + 3: each plane's bits moved to their places."""
        low, pieces = 0, []
        for width in self.layout.planes:
            word, bit = divmod(index * width, 8)
            pieces.append(move_field(self._word(width, word), width, bit, low))
            low += width
        return reduce(lambda a, b: a | b, pieces)

    def _word(self, width: int, index: int) -> Value:
        """A word of each row from a plane."""
        if (width, index) not in self._words:
            self._words[width, index] = self._rows(self._in_strip(f"plane{width}").cast(I32), index)
        return self._words[width, index]

    def _scale(self, name: str, stored: ScaleLayout, part: int) -> Value:
        if not stored.factor:
            return self._units(self._in_strip(f"{name}_units"), stored, part)
        unit = self._units(self.block + offset_of(self.layout.block, f"{name}_units"), stored, 0)
        factors = self._rows(self._in_strip(f"{name}_factors"), 0 if stored.nibbles else part)
        factors = factors.widen(I32, signed=stored.factor == "i1")
        if stored.nibbles:
            factors = factors >> 4 * part & 0xF
        return unit * factors.to_float(signed=True)

    def _units(self, at: Pointer, stored: ScaleLayout, index: int) -> Value:
        """Units as floats."""
        match stored.unit:
            case "f2":
                return self._rows(at.cast(F16), index).widen(F32)
            case "u1":
                return _power(self._rows(at, index).widen(I32))
            case _:
                return self._rows(at.cast(F32), index)

    def _rows(self, at: Pointer, index: int) -> Value:
        """From vectors of 16 rows, the rows wanted of the one with a number."""
        return (at + self.first).vector(index * LANES, self.lanes)

    def _in_strip(self, name: str) -> Pointer:
        """A field of the strip."""
        return strip_at(self.layout, self.block, self.index) + offset_of(self.layout.strip_record, name)


def _power(exponent: Value) -> Value:
    """2**(exponent - 128), straight into the exponent bits; below 2**-126 they are 0."""
    e = exponent.emitter
    return e.select(exponent < 2, (exponent + 1) << 21, (exponent - 1) << 23).bits(F32)


def strip_at(layout: AffineLayout, block: Pointer, index: Operand) -> Pointer:
    """The address of a strip's record."""
    e = block.emitter
    return block + (e.int(layout.strip_record.itemsize) * index + offset_of(layout.block, "strips"))


@dataclass(frozen=True, slots=True)
class FloatStrip:
    """Weights stored as floats; bfloat16 is the upper half of a float32."""

    layout: FloatLayout
    block: Pointer

    def columns(self, part: int) -> Iterator[Value]:
        del part
        return (self._column(column * LANES) for column in range(self.layout.columns))

    def weight(self, part: int, number: Value) -> Value:
        del part
        return number

    def add(self, part: int, y: Value, dot: Value, x_sum: Value) -> Value:
        del part, x_sum
        return y + dot

    def _column(self, at: int) -> Value:
        match self.layout.name:
            case "f32":
                return self.block.cast(F32).vector(at)
            case "f16":
                return self.block.cast(F16).vector(at).widen(F32)
            case _:
                return (self.block.cast(I16).vector(at).widen(I32) << 16).bits(F32)


def move_field(words: Value, width: int, bit: int, to: int) -> Value:
    """In each byte of 32-bit lanes, the ``width`` bits from ``bit`` on, moved to bit ``to``; all else 0."""
    if width == BYTE.width:
        return words
    moved = words >> (bit - to) if bit > to else words << (to - bit)
    return moved & ((1 << width) - 1 << to) * 0x01010101


AnyStrip: TypeAlias = AffineStrip | FloatStrip


def strip(layout: Layout, block: Pointer, index: Operand, instructions: str) -> AnyStrip:
    """The reading of a strip; ``block`` is the address of the block's bytes."""
    if isinstance(layout, AffineLayout):
        return AffineStrip(layout, block, index, instructions)
    return FloatStrip(layout, block)
