"""What a quant type must be able to do, and the few lossless layouts engines run on.

A quant plugin is geometry plus ``dequantize_blocks``. If it also says ``to_run`` (the same
numbers as codes, scales and offsets), every engine runs it from its compact form without knowing
its file format; otherwise engines expand it to F32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class AffineRun:
    """Weights of some rows as ``scale * code + offset``, lossless: equal to ``dequantize_blocks``.

    One multiply and one add, the product exact in F32, so a fused multiply-add gives the same bits.
    """

    codes: NDArray[np.uint8]
    """(rows, columns), unsigned, below ``2**bits``."""
    bits: int
    """4 or 8: the width an engine packs the codes to."""
    group: int
    """16 or 32 consecutive columns share a scale and an offset."""
    scales: NDArray[np.float32]
    """(rows, columns / group)."""
    offsets: NDArray[np.float32]
    """(rows, columns / group)."""


@dataclass(frozen=True, slots=True)
class FloatRun:
    """Weights of some rows as they are: (rows, columns) of float32, float16, or uint16 holding bfloat16."""

    values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]


class QuantType(Protocol):
    """A tensor type of the file format. ``blocks`` is (number of blocks, bytes per block) of uint8."""

    def dequantize_blocks(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(blocks, bytes) -> (blocks, elements per block), bit-exact with ggml's own."""
        ...


@runtime_checkable
class RunnableQuantType(QuantType, Protocol):
    """A quant type that also offers its numbers in a run layout."""

    def to_run(self, blocks: NDArray[np.uint8], rows: int) -> AffineRun | FloatRun:
        """Blocks of whole consecutive rows -> their run layout; blocks of a row are adjacent."""
        ...
