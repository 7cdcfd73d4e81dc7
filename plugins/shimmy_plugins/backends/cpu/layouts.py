"""Run layouts in memory: 16 rows interleaved, so that one load brings a column of 16 rows.

A packed matrix is an array (row groups, blocks) of a record: some columns of 16 rows with their
scales and offsets. Missing rows and columns of the last group and block are zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy_plugins.backends.cpu.emitter import LANES

Packed = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class AffineLayout:
    """``scale * code + offset``: codes of 4 bits (two columns a byte, the even one low) or 8 bits."""

    bits: int
    group: int

    @property
    def name(self) -> str:
        return f"affine{self.bits}_{self.group}"

    @property
    def columns(self) -> int:
        """Columns in a block."""
        return self.group

    @property
    def block(self) -> np.dtype[np.void]:
        """Codes are (bytes per row, 16 rows)."""
        codes = (self.group * self.bits // 8, LANES)
        return np.dtype([("codes", "u1", codes), ("scales", "f4", (LANES,)), ("offsets", "f4", (LANES,))])

    def fill(self, packed: Packed, run: AffineRun | FloatRun) -> None:
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

    def fill(self, packed: Packed, run: AffineRun | FloatRun) -> None:
        """Pack the rows of ``run`` into the row groups of ``packed``."""
        assert isinstance(run, FloatRun), "a tensor has one layout"
        _interleave(packed["values"], run.values)


Layout = AffineLayout | FloatLayout


def layout_of(run: AffineRun | FloatRun) -> Layout:
    """The layout some rows are packed to."""
    if isinstance(run, AffineRun):
        return AffineLayout(run.bits, run.group)
    names = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(np.uint16): "bf16"}
    return FloatLayout(names[run.values.dtype])


def _interleave(target: NDArray[Any], rows: NDArray[Any]) -> None:
    """(rows, columns) -> (row groups, blocks, columns per block, 16)."""
    groups, blocks, columns, _ = target.shape
    if rows.shape != (groups * LANES, blocks * columns):
        padded = np.zeros((groups * LANES, blocks * columns), rows.dtype)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        rows = padded
    target[...] = rows.reshape(groups, LANES, blocks, columns).transpose(0, 2, 3, 1)
