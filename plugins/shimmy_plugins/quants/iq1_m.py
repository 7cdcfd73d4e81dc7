"""IQ1_M: 256 weights of -1, 0 or 1, 8 at a time from a grid of 2048 entries; a scale for 16, a shift for 8.

A block is 56 bytes::

     0  32 bytes: the low bits of entries of the grid
    32  16 bytes, of entries 2 j and 2 j + 1 in the nibbles of byte j: 3 upper bits, the sign of the shift
    48  4 x uint16: 4 x 3 bits of scale, then 4 bits of the block's scale, a float16, the lowest ones first

    weight = (grid + 1/8 or - 1/8) * (2 * three bits + 1) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._grids import IQ1_VALUES, fields, fraction, grid_run, part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import ArrayType
    from shimmy.gguf.quant import AffineRun


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register IQ1_M."""
    register(QuantTypeSpec("IQ1_M", ggml_id=29, block_elements=256, block_bytes=56, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    nibbles = fields(part(blocks, 32, 16), (0, 4), 4)
    indices = part(blocks, 0, 32) | (nibbles & 7) << 8
    scales = part(blocks, 48, 4, "<u2")
    quarters = scales >> 12
    scale = quarters[:, 0] | quarters[:, 1] << 4 | quarters[:, 2] << 8 | quarters[:, 3] << 12
    units = fraction(scale[:, None].view("<f2"), 8)
    return grid_run(
        "IQ1_M", indices, (nibbles >> 3) * 255, IQ1_VALUES, units, fields(scales, (0, 3, 6, 9), 3)
    )
