"""IQ1_S: 256 weights of -1, 0 or 1, 8 at a time from a grid of 2048 entries; a scale and a shift for 32.

A block is 50 bytes::

     0  the block's scale, float16
     2  32 bytes: the low bits of entries of the grid
    34  8 x uint16, one for each group: 4 x 3 upper bits of entries, 3 bits of scale, the sign of the shift

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
    """Register IQ1_S."""
    register(QuantTypeSpec("IQ1_S", ggml_id=19, block_elements=256, block_bytes=50, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    rest = part(blocks, 34, 8, "<u2")
    indices = part(blocks, 2, 32) | fields(rest, (0, 3, 6, 9), 3) << 8
    units = fraction(part(blocks, 0, 1, "<f2"), 8)
    return grid_run("IQ1_S", indices, (rest >> 15) * 255, IQ1_VALUES, units, fields(rest, (12,), 3))
