"""Run layouts in memory: 16 rows interleaved, so that one load brings a column of 16 rows.

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


@dataclass(frozen=True, slots=True)
class AffineLayout:
    """``scale * code + offset``: codes of 4 bits (two columns a byte, the even one low) or 8 bits.

    Scales and offsets are ``half`` floats where all of a tensor's are exactly that, which most file
    formats have: a sixth less to read.
    """

    bits: int
    group: int
    half: bool

    @property
    def name(self) -> str:
        return f"affine{self.bits}_{self.group}{'_half' if self.half else ''}"

    @property
    def columns(self) -> int:
        """Columns in a block."""
        return self.group

    @property
    def block(self) -> np.dtype[np.void]:
        """Codes are (bytes per row, 16 rows)."""
        codes, scale = (self.group * self.bits // 8, LANES), "f2" if self.half else "f4"
        return np.dtype([("codes", "u1", codes), ("scales", scale, (LANES,)), ("offsets", scale, (LANES,))])

    def offset_of(self, name: str) -> int:
        """Where a field of the block begins, in bytes."""
        fields = self.block.fields
        assert fields is not None
        return int(fields[name][1])

    def holds(self, run: Run) -> bool:
        """Whether packing ``run`` to this layout loses nothing."""
        assert isinstance(run, AffineRun), "a tensor has one layout"
        return not self.half or (_are_half(run.scales) and _are_half(run.offsets))

    def fill(self, packed: Packed, run: Run) -> None:
        """Pack the rows of ``run`` into the row groups of ``packed``."""
        assert isinstance(run, AffineRun), "a tensor has one layout"
        codes: NDArray[Any] = run.codes
        if self.bits == 4:
            codes = codes[:, 0::2] | codes[:, 1::2] << 4
        _interleave(packed["codes"], codes)
        _interleave(packed["scales"][:, :, None], run.scales)
        _interleave(packed["offsets"][:, :, None], run.offsets)


@dataclass(frozen=True, slots=True)
class FloatLayout:
    """Weights as they are: "f32", "f16" or "bf16"."""

    name: str
    columns: ClassVar[int] = LANES

    _STORED: ClassVar[dict[str, str]] = {"f32": "f4", "f16": "f2", "bf16": "u2"}

    @property
    def block(self) -> np.dtype[np.void]:
        """Values are (columns, 16 rows)."""
        return np.dtype([("values", self._STORED[self.name], (self.columns, LANES))])

    def holds(self, run: Run) -> bool:
        """Whether packing ``run`` to this layout loses nothing."""
        assert isinstance(run, FloatRun), "a tensor has one layout"
        return True

    def fill(self, packed: Packed, run: Run) -> None:
        """Pack the rows of ``run`` into the row groups of ``packed``."""
        assert isinstance(run, FloatRun), "a tensor has one layout"
        _interleave(packed["values"], run.values)


Layout: TypeAlias = AffineLayout | FloatLayout


def layout_of(run: Run) -> Layout:
    """The smallest layout that holds these rows; more rows of the tensor may need a wider one."""
    if isinstance(run, AffineRun):
        half = AffineLayout(run.bits, run.group, half=True)
        return half if half.holds(run) else replace(half, half=False)
    names = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(np.uint16): "bf16"}
    return FloatLayout(names[run.values.dtype])


def _are_half(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(values, values.astype(np.float16))


def _interleave(target: NDArray[Any], rows: NDArray[Any]) -> None:
    """(rows, columns) -> (row groups, blocks, columns per block, 16)."""
    groups, blocks, columns, _ = target.shape
    if rows.shape != (groups * LANES, blocks * columns):
        padded = np.zeros((groups * LANES, blocks * columns), rows.dtype)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        rows = padded
    target[...] = rows.reshape(groups, LANES, blocks, columns).transpose(0, 2, 3, 1)
