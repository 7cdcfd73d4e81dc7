"""Run layouts in memory: 16 rows interleaved, so that one load brings some columns of 16 rows.

A packed matrix is an array (row groups, blocks) of a record: some columns of 16 rows with their
scales and offsets. Missing rows and columns of the last group and block are zeros. What kernels
unpack at a time is a *strip* of a block: 32 columns of codes, 16 of floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, FloatRun, Scales
from shimmy_plugins.backends.cpu.values import LANES

Packed: TypeAlias = NDArray[np.void]
Run: TypeAlias = AffineRun | FloatRun

#: Columns in a strip of codes, also the columns of activations that are quantised together.
STRIP_COLUMNS = 32


@dataclass(frozen=True, slots=True)
class ScaleLayout:
    """How scales, or offsets, are stored: NumPy names of their types."""

    unit: str
    """"f2" or "f4"; "u1": 2**(unit - 128)."""
    factor: str = ""
    """"u1" or "i1": a group's scale is a unit times that; empty: a unit for each group."""
    nibbles: bool = False
    """Whether a byte has the factors of both groups of a strip, the first in the low nibble."""

    @property
    def name(self) -> str:
        return self.unit + self.factor + "half" * self.nibbles


@dataclass(frozen=True, slots=True)
class AffineLayout:
    """``scale * number + offset``, with a scale and an offset for 16 or 32 columns; numbers are codes, or
    what a codebook has for them.

    Codes are stored as planes of their bits, of a width that divides a byte: 5 bits as a plane of 4
    and one of 1. In a plane of width w, each row has w words of 32 bits for a strip. Processors
    multiply bytes four at a time, so the bytes of a word belong to four neighbouring columns:
    columns 4 q to 4 q + 3 of a strip are in word q * w // 8, at bit q * w % 8 of its bytes.
    """

    bits: int
    group: int
    columns: int
    """In a block: those that share a unit, or a strip."""
    scales: ScaleLayout
    offsets: ScaleLayout | int
    """An integer is the number of weight 0: every offset is its scale * -zero."""
    codebook: tuple[int, ...] = ()
    """For each code a number from 0 to 255; empty if codes are numbers themselves."""

    strip: ClassVar[int] = STRIP_COLUMNS

    @property
    def name(self) -> str:
        offsets = f"zero{self.offsets}" if isinstance(self.offsets, int) else self.offsets.name
        codebook = f"_{bytes(self.codebook).hex()}" if self.codebook else ""
        return f"affine{self.bits}_{self.group}_{self.columns}_{self.scales.name}_{offsets}{codebook}"

    @property
    def strips(self) -> int:
        """Strips in a block."""
        return self.columns // self.strip

    @property
    def strip_groups(self) -> int:
        """Groups in a strip, 1 or 2."""
        return self.strip // self.group

    @property
    def number_bits(self) -> int:
        """The width of numbers."""
        return max(self.codebook).bit_length() if self.codebook else self.bits

    @property
    def planes(self) -> tuple[int, ...]:
        """Widths of the planes; the first has the lowest bits of the codes."""
        return tuple(width for width in (8, 4, 2, 1) if self.bits & width)

    @property
    def block(self) -> np.dtype[np.void]:
        """Units of the block are (1, 16 rows); strip after strip follows, so that memory is read in order."""
        units = [(f"{name}_units", "<" + kind.unit, (1, LANES)) for name, kind in self._stored if kind.factor]
        return np.dtype([*units, ("strips", self.strip_record, (self.strips,))])

    @property
    def strip_record(self) -> np.dtype[np.void]:
        """Planes are (words per row, 16 rows); factors, or units without them, (groups or 1, 16 rows)."""
        fields: list[Any] = [(f"plane{width}", "<u4", (width, LANES)) for width in self.planes]
        for name, kind in self._stored:
            field = (f"{name}_factors", kind.factor) if kind.factor else (f"{name}_units", "<" + kind.unit)
            fields.append((*field, (1 if kind.nibbles else self.strip_groups, LANES)))
        return np.dtype(fields)

    @property
    def _stored(self) -> list[tuple[str, ScaleLayout]]:
        both = (("scale", self.scales), ("offset", self.offsets))
        return [(name, kind) for name, kind in both if isinstance(kind, ScaleLayout)]


@dataclass(frozen=True, slots=True)
class FloatLayout:
    """Weights as they are: "f32", "f16" or "bf16"."""

    name: str
    columns: ClassVar[int] = LANES
    strip: ClassVar[int] = LANES
    strips: ClassVar[int] = 1
    strip_groups: ClassVar[int] = 1

    _STORED: ClassVar[dict[str, str]] = {"f32": "f4", "f16": "f2", "bf16": "u2"}

    @property
    def block(self) -> np.dtype[np.void]:
        """Values are (columns, 16 rows)."""
        return np.dtype([("values", self._STORED[self.name], (self.columns, LANES))])


Layout: TypeAlias = AffineLayout | FloatLayout


def offset_of(record: np.dtype[np.void], name: str) -> int:
    """Where a field of a record begins, in bytes."""
    fields = record.fields
    assert fields is not None
    return int(fields[name][1])


def layout_of(run: Run) -> Layout:
    """The layout for a tensor with such rows."""
    if isinstance(run, FloatRun):
        names = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(np.uint16): "bf16"}
        return FloatLayout(names[run.values.dtype])
    scales = _scale_layout(run.scales, run.group)
    offsets = run.offsets if isinstance(run.offsets, int) else _scale_layout(run.offsets, run.group)
    nested = [s for s in (run.scales, run.offsets) if isinstance(s, Scales) and s.factors is not None]
    spans = {run.codes.shape[1] // s.units.shape[1] for s in nested}
    assert len(spans) < 2, "scales and offsets have their units for the same columns"
    columns = max(spans, default=STRIP_COLUMNS)
    assert columns % STRIP_COLUMNS == 0, "a unit is for whole strips"
    return AffineLayout(run.bits, run.group, columns, scales, offsets, run.codebook)


def _scale_layout(scales: Scales, group: int) -> ScaleLayout:
    unit, factors = scales.units.dtype.str[1:], scales.factors
    if factors is None:
        return ScaleLayout(unit)
    return ScaleLayout(unit, factors.dtype.str[1:], scales.factor_bits == 4 and 2 * group == STRIP_COLUMNS)
