"""Run layouts in memory: 16 rows interleaved, so that one load brings some columns of 16 rows.

A packed matrix is an array (row groups, blocks) of a record: some columns of 16 rows with their
scales and offsets. Missing rows and columns of the last group and block are zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy_plugins.backends.cpu.emitter import LANES

Packed: TypeAlias = NDArray[np.void]
Run: TypeAlias = AffineRun | FloatRun

#: Columns in a block of codes, also the columns of activations that are quantised together.
BLOCK_COLUMNS = 32


@dataclass(frozen=True, slots=True)
class AffineLayout:
    """``scale * code + offset``: codes of 4 or 8 bits, a scale and an offset for 16 or 32 columns.

    A word of 32 bits holds neighbouring columns of one row, because processors multiply bytes four
    at a time: with 8 bits a word is columns 0-3; with 4 bits the low nibbles of its bytes are
    columns 0-3 and the high ones columns 4-7.

    Scales and offsets are ``half`` floats where all of a tensor's are exactly that, and offsets are
    not stored where all of them are ``scale * -zero``: most file formats have both.
    """

    bits: int
    group: int
    half: bool
    zero: int | None
    """The code of weight 0, the same for the whole tensor; None if offsets are stored."""

    @property
    def name(self) -> str:
        parts = (f"affine{self.bits}_{self.group}", "half" if self.half else "", f"zero{self.zero}")
        return "_".join(part for part in parts if part and part != "zeroNone")

    @property
    def columns(self) -> int:
        """Columns in a block."""
        return BLOCK_COLUMNS

    @property
    def groups(self) -> int:
        """Groups of columns in a block."""
        return BLOCK_COLUMNS // self.group

    @property
    def block(self) -> np.dtype[np.void]:
        """Codes are (words per row, 16 rows), scales and offsets (groups, 16 rows)."""
        words, scale = BLOCK_COLUMNS * self.bits // 32, "<f2" if self.half else "<f4"
        fields: list[Any] = [("codes", "<u4", (words, LANES)), ("scales", scale, (self.groups, LANES))]
        if self.zero is None:
            fields.append(("offsets", scale, (self.groups, LANES)))
        return np.dtype(fields)

    def offset_of(self, name: str) -> int:
        """Where a field of the block begins, in bytes."""
        fields = self.block.fields
        assert fields is not None
        return int(fields[name][1])

    def joined(self, other: Layout) -> AffineLayout:
        """The smallest layout that holds what either does."""
        assert isinstance(other, AffineLayout), "a tensor has one layout"
        return replace(
            self, half=self.half and other.half, zero=self.zero if self.zero == other.zero else None
        )

    def widened_for(self, run: Run) -> AffineLayout:
        """This layout, or the next wider one that holds ``run`` as well."""
        assert isinstance(run, AffineRun), "a tensor has one layout"
        zero = self.zero if self.zero is None or _has_zero(run, self.zero) else None
        half = self.half and _are_half(run.scales) and (zero is not None or _are_half(run.offsets))
        return replace(self, half=half, zero=zero)

    def fill(self, packed: Packed, run: Run) -> None:
        """Pack the rows of ``run`` into the row groups of ``packed``."""
        assert isinstance(run, AffineRun), "a tensor has one layout"
        words: NDArray[Any] = np.ascontiguousarray(run.codes).view("<u4")
        if self.bits == 4:
            words = words[:, 0::2] | words[:, 1::2] << 4
        _interleave(packed["codes"], words)
        _interleave(packed["scales"], run.scales)
        if self.zero is None:
            _interleave(packed["offsets"], run.offsets)


@dataclass(frozen=True, slots=True)
class FloatLayout:
    """Weights as they are: "f32", "f16" or "bf16"."""

    name: str
    columns: ClassVar[int] = LANES
    groups: ClassVar[int] = 1

    _STORED: ClassVar[dict[str, str]] = {"f32": "f4", "f16": "f2", "bf16": "u2"}

    @property
    def block(self) -> np.dtype[np.void]:
        """Values are (columns, 16 rows)."""
        return np.dtype([("values", self._STORED[self.name], (self.columns, LANES))])

    def joined(self, other: Layout) -> FloatLayout:
        """This layout: a tensor has one."""
        assert self == other, "a tensor has one layout"
        return self

    def widened_for(self, run: Run) -> FloatLayout:
        """This layout: floats are stored as they are."""
        assert isinstance(run, FloatRun), "a tensor has one layout"
        return self

    def fill(self, packed: Packed, run: Run) -> None:
        """Pack the rows of ``run`` into the row groups of ``packed``."""
        assert isinstance(run, FloatRun), "a tensor has one layout"
        _interleave(packed["values"], run.values)


Layout: TypeAlias = AffineLayout | FloatLayout


def layout_of(run: Run) -> Layout:
    """The smallest layout that holds these rows; more rows of the tensor may need a wider one."""
    if isinstance(run, AffineRun):
        return AffineLayout(run.bits, run.group, half=True, zero=_zero_of(run)).widened_for(run)
    names = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(np.uint16): "bf16"}
    return FloatLayout(names[run.values.dtype])


def _zero_of(run: AffineRun) -> int | None:
    """The code of weight 0 by the first group that has a scale."""
    used = np.flatnonzero(run.scales)
    if not len(used):
        return 0
    with np.errstate(all="ignore"):
        zero = -run.offsets.flat[used[0]] / run.scales.flat[used[0]]
    # A damaged file's may be infinite or no number; offsets that fit no code are stored.
    return int(zero) if 0 <= zero < 2**run.bits else None


def _has_zero(run: AffineRun, zero: int) -> bool:
    with np.errstate(all="ignore"):
        return np.array_equal(run.offsets, run.scales * np.float32(-zero))


def _are_half(values: NDArray[np.float32]) -> bool:
    """Whether all values are exact in half precision."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    # Mostly they are normal: 10 bits of mantissa and an exponent from -14 to 15. Converting is slow.
    exponents = (bits & 0x7FFFFFFF) - np.uint32(0x38800000) < np.uint32(0x0F000000)
    if bool(np.all(exponents & (bits & 0x1FFF == 0))):
        return True
    with np.errstate(over="ignore"):
        return np.array_equal(values, values.astype(np.float16))


def _interleave(target: NDArray[Any], rows: NDArray[Any]) -> None:
    """(rows, columns) -> (row groups, blocks, columns per block, 16); columns in whatever unit."""
    groups, blocks, columns, _ = target.shape
    rows = rows.astype(target.dtype, copy=False)
    if rows.shape != (groups * LANES, blocks * columns):
        padded = np.zeros((groups * LANES, blocks * columns), rows.dtype)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        rows = padded
    target[...] = rows.reshape(groups, LANES, blocks, columns).transpose(0, 2, 3, 1)
