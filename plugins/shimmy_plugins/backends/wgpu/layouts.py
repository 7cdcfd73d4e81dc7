"""Run layouts in GPU memory: planes of bits, and scales, each a buffer of rows one below the other.

Kernels see 32 columns of a row as a *block*. A row has whole blocks; columns past its end are zero weights.
What the numbers mean, ``shaders/shimmy_shaders/weights`` says in WGSL: ``affine.wgsl`` and ``float.wgsl``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from shimmy.errors import PluginError
from shimmy.gguf.quant import AffineRun, FloatRun, Scales

Run: TypeAlias = AffineRun | FloatRun

#: Columns of a row that kernels unpack together.
BLOCK = 32
#: Bytes of a word, the unit in which parts are stored.
WORD = 4


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

    unit: Literal["f2", "f4"]
    factor: Literal["", "u1", "i1"] = ""
    """A group's scale is a unit times that; empty: a unit for each group."""
    span: int = 1
    """Groups that share a unit."""

    @property
    def name(self) -> str:
        return self.unit + (f"{self.factor}x{self.span}" if self.factor else "")


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
        """Half floats are two to a word."""
        columns = self.layout.span * self.group
        name = f"{self.name}_units"
        if self.layout.unit == "f2":
            return Part(name, "u32", columns if self.pairs else 2 * columns, 1)
        return Part(name, "vec2<f32>", columns, 2) if self.pairs else Part(name, "f32", columns, 1)

    @property
    def factors(self) -> Part:
        """Bytes; only where the layout has factors."""
        return Part(f"{self.name}_factors", "u32", self.group * (2 if self.pairs else 4), 1)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.units, self.factors) if self.layout.factor else (self.units,)


@dataclass(frozen=True, slots=True)
class AffineLayout:
    """``scale * code + offset``, with a scale and an offset for 16 or 32 columns.

    Codes are stored as planes of their bits, of a width that divides a byte: 5 bits as a plane of 4 and one
    of 1. A block of a plane of width w is w words. With words of code for four columns each, 0 to 7, these
    are in word ``i % w`` of the block, in the bits of its bytes from ``i // w * w`` on.
    Codes of 8 bits are stored less 128, as int8, since GPUs multiply signed bytes.
    """

    bits: int
    group: int
    scales: ScaleLayout
    offsets: ScaleLayout | int
    """An integer is the code of weight 0: every offset is its scale * -zero."""

    shader: ClassVar[str] = "shimmy/weights/affine.wgsl"

    @property
    def name(self) -> str:
        offsets = f"zero{self.offsets}" if isinstance(self.offsets, int) else self.offsets.name
        return f"affine{self.bits}_{self.group}_{self.scales.name}_{offsets}"

    @property
    def planes(self) -> tuple[int, ...]:
        """Widths of the planes; the first has the lowest bits of the codes."""
        return tuple(width for width in (8, 4, 2, 1) if self.bits & width)

    @property
    def bias(self) -> int:
        """What is taken off a code where it is stored."""
        return 128 if self.bits == 8 else 0

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
    """The layout for a tensor with such rows.

    Raises:
        PluginError: groups are of neither 16 nor 32 columns, or codes are not of 1 to 8 bits.
    """
    if isinstance(run, FloatRun):
        names: dict[np.dtype[np.generic], Literal["f32", "f16", "bf16"]] = {
            np.dtype(np.float32): "f32",
            np.dtype(np.float16): "f16",
            np.dtype(np.uint16): "bf16",
        }
        return FloatLayout(names[run.values.dtype])
    if run.group not in (16, 32) or not 1 <= run.bits <= 8:
        raise PluginError(
            f"a run layout has codes of {run.bits} bits in groups of {run.group} columns; "
            "expected 1 to 8 bits, and groups of 16 or 32 columns."
        )
    groups = run.codes.shape[1] // run.group
    offsets = run.offsets if isinstance(run.offsets, int) else _scale_layout(run.offsets, groups)
    return AffineLayout(run.bits, run.group, _scale_layout(run.scales, groups), offsets)


def _scale_layout(scales: Scales, groups: int) -> ScaleLayout:
    unit: Literal["f2", "f4"] = "f2" if scales.units.dtype == np.float16 else "f4"
    if scales.factors is None:
        return ScaleLayout(unit)
    return ScaleLayout(
        unit, "i1" if scales.factors.dtype == np.int8 else "u1", groups // scales.units.shape[1]
    )


def _bytes(parts: tuple[Part, ...], rows: int, columns: int) -> int:
    return sum(rows * part.row_words(columns) * WORD for part in parts)
