"""Run layouts in GPU memory: planes of bits, and scales, each a buffer of rows one below the other.

Kernels see 32 columns of a row as a *block*. A row has whole blocks; columns past its end are zero weights.
What the numbers mean, ``shaders/shimmy_shaders/weights`` says in WGSL: ``affine.wgsl`` and ``float.wgsl``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from shimmy.gguf.quant import AffineRun, FloatRun, Scales

Run: TypeAlias = AffineRun | FloatRun

#: Columns of a row that kernels unpack together.
BLOCK = 32
#: Bytes of a word, the unit in which parts are stored.
WORD = 4
_MOST_INT8 = 127
_HALF_BYTE = 4


@dataclass(frozen=True, slots=True)
class Part:
    """One buffer of a layout: ``words`` words of 32 bits for each ``columns`` columns of a row."""

    name: str
    element: str
    """Its WGSL type."""
    columns: int
    words: int

    def row_words(self, columns: int) -> int:
        """Words of a row; 0 numbers fill up the last ones."""
        return -(-padded(columns) // self.columns) * self.words

    def row_elements(self, columns: int) -> int:
        """Elements of a row."""
        per_element = int(self.element[3]) if self.element.startswith("vec") else 1
        return self.row_words(columns) // per_element


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """How scales, or offsets, are stored: NumPy names of their types."""

    unit: Literal["f2", "f4", "u1"]
    """"u1": 2**(unit - 128)."""
    factor: Literal["", "u1", "i1"] = ""
    """A group's scale is a unit times that; empty: a unit for each group."""
    span: int = 1
    """Groups that share a unit."""
    factor_bits: int = 8
    """4: two factors to a byte."""

    @property
    def name(self) -> str:
        half = "half" * (self.factor_bits == _HALF_BYTE)
        return self.unit + (f"{self.factor}{half}x{self.span}" if self.factor else "")


@dataclass(frozen=True, slots=True)
class Stream:
    """Scales, offsets, or both as pairs where they are stored alike, so that one load brings both."""

    name: Literal["scale", "offset", "both"]
    layout: ScaleLayout
    group: int

    @property
    def pairs(self) -> bool:
        return self.name == "both"

    @property
    def units(self) -> Part:
        """Half floats are two to a word, powers four."""
        columns = self.layout.span * self.group
        name = f"{self.name}_units"
        if self.layout.unit == "f4":
            return Part(name, "vec2<f32>", columns, 2) if self.pairs else Part(name, "f32", columns, 1)
        return Part(name, "u32", columns * self.units_per_word, 1)

    @property
    def units_per_word(self) -> int:
        """Groups, or with factors spans of them, whose units are in a word, or an element of the units."""
        per_word = {"f2": 2, "f4": 1, "u1": 4}[self.layout.unit]
        return max(per_word // 2, 1) if self.pairs else per_word

    @property
    def factors(self) -> Part:
        """Bytes or halves of them; only where the layout has factors."""
        return Part(f"{self.name}_factors", "u32", self.group * self.factors_per_word, 1)

    @property
    def factors_per_word(self) -> int:
        """Groups whose factors are in a word."""
        return 32 // self.layout.factor_bits // (2 if self.pairs else 1)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.units, self.factors) if self.layout.factor else (self.units,)


@dataclass(frozen=True, slots=True)
class AffineLayout:
    """``scale * number + offset``, with a scale and an offset for 16 or 32 columns; numbers are codes, or
    what a codebook has for them.

    Codes are stored as planes of their bits, of a width that divides a byte: 5 bits as a plane of 4 and one
    of 1. A block of a plane of width w is w words. With words of code for four columns each, 0 to 7, these
    are in word ``i % w`` of the block, in the bits of its bytes from ``i // w * w`` on.
    Numbers of 8 bits are read less 128, as int8, since GPUs multiply signed bytes; codes are stored so.
    """

    bits: int
    group: int
    scales: ScaleLayout
    offsets: ScaleLayout | int
    """An integer is the number of weight 0: every offset is its scale * -zero."""
    codebook: tuple[int, ...] = ()
    """For each code a number from 0 to 255; empty if codes are numbers themselves."""

    shader: ClassVar[str] = "shimmy/weights/affine.wgsl"

    @property
    def name(self) -> str:
        offsets = f"zero{self.offsets}" if isinstance(self.offsets, int) else self.offsets.name
        codebook = f"_{bytes(self.codebook).hex()}" if self.codebook else ""
        return f"affine{self.bits}_{self.group}_{self.scales.name}_{offsets}{codebook}"

    @property
    def planes(self) -> tuple[int, ...]:
        """Widths of the planes; the first has the lowest bits of the codes."""
        return tuple(width for width in (8, 4, 2, 1) if self.bits & width)

    @property
    def bias(self) -> int:
        """What is taken off a number where it is read."""
        return 128 if max(self.codebook, default=2**self.bits - 1) > _MOST_INT8 else 0

    @property
    def codebook_words(self) -> tuple[int, ...]:
        """The codebook's numbers as they are read, each in the four bytes of a word."""
        return tuple((number - self.bias) % 256 * 0x01010101 for number in self.codebook)

    @property
    def code_bias(self) -> int:
        """What is taken off a code where it is stored."""
        return 0 if self.codebook else self.bias

    @property
    def streams(self) -> tuple[Stream, ...]:
        if isinstance(self.offsets, int):
            return (Stream("scale", self.scales, self.group),)
        if self.offsets == self.scales:
            return (Stream("both", self.scales, self.group),)
        return (Stream("scale", self.scales, self.group), Stream("offset", self.offsets, self.group))

    @property
    def parts(self) -> tuple[Part, ...]:
        elements = {8: "vec4<u32>", 4: "vec4<u32>", 2: "vec2<u32>", 1: "u32"}
        planes = tuple(Part(f"plane{width}", elements[width], BLOCK, width) for width in self.planes)
        return planes + tuple(part for stream in self.streams for part in stream.parts)

    def bytes(self, rows: int, columns: int) -> int:
        """Of all parts of a matrix."""
        return _bytes(self.parts, rows, columns)


@dataclass(frozen=True, slots=True)
class FloatLayout:
    """Weights as they are: "f32", "f16" or "bf16"."""

    name: Literal["f32", "f16", "bf16"]

    shader: ClassVar[str] = "shimmy/weights/float.wgsl"

    @property
    def parts(self) -> tuple[Part, ...]:
        """Halves are two to a word, the first in the low bits."""
        wide = self.name == "f32"
        return (Part("values", "vec4<f32>" if wide else "vec4<u32>", BLOCK, BLOCK if wide else BLOCK // 2),)

    def bytes(self, rows: int, columns: int) -> int:
        """Of all parts of a matrix."""
        return _bytes(self.parts, rows, columns)


GpuLayout: TypeAlias = AffineLayout | FloatLayout


def padded(columns: int) -> int:
    """Columns in whole blocks."""
    return -(-columns // BLOCK) * BLOCK


def layout_of(run: Run) -> GpuLayout:
    """The layout for a tensor with such rows."""
    if isinstance(run, FloatRun):
        names: dict[np.dtype[np.generic], Literal["f32", "f16", "bf16"]] = {
            np.dtype(np.float32): "f32",
            np.dtype(np.float16): "f16",
            np.dtype(np.uint16): "bf16",
        }
        return FloatLayout(names[run.values.dtype])
    groups = run.codes.shape[1] // run.group
    offsets = run.offsets if isinstance(run.offsets, int) else _scale_layout(run.offsets, groups)
    return AffineLayout(run.bits, run.group, _scale_layout(run.scales, groups), offsets, run.codebook)


def _scale_layout(scales: Scales, groups: int) -> ScaleLayout:
    units: dict[np.dtype[np.generic], Literal["f2", "f4", "u1"]] = {
        np.dtype(np.float16): "f2",
        np.dtype(np.float32): "f4",
        np.dtype(np.uint8): "u1",
    }
    unit = units[scales.units.dtype]
    if scales.factors is None:
        return ScaleLayout(unit)
    factor: Literal["i1", "u1"] = "i1" if scales.factors.dtype == np.int8 else "u1"
    return ScaleLayout(unit, factor, groups // scales.units.shape[1], scales.factor_bits)


def _bytes(parts: tuple[Part, ...], rows: int, columns: int) -> int:
    return sum(rows * part.row_words(columns) * WORD for part in parts)
