"""IQ2_S: 256 weights, 8 at a time from a grid of 1024 entries, with signs; a scale for 16 of them.

A block is 82 bytes::

     0  the block's scale, float16
     2  32 bytes: the low bits of entries of the grid
    34  32 bytes of signs, bit i of byte j that of weight 8 j + i
    66  8 bytes, byte j: the upper two bits of entries 4 j to 4 j + 3, the first in the lowest bits
    74  8 bytes, byte j: the scale of group 2 j in the low nibble, that of group 2 j + 1 in the high one

    weight = sign * grid * (four bits + 1/2) * scale / 4
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._grids import (
    either_sign,
    fields,
    fraction,
    grid,
    grid_run,
    nibbles_of,
    part,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import ArrayType
    from shimmy.gguf.quant import AffineRun


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register IQ2_S."""
    register(QuantTypeSpec("IQ2_S", ggml_id=22, block_elements=256, block_bytes=82, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    indices = part(blocks, 2, 32) | fields(part(blocks, 66, 8), (0, 2, 4, 6), 2) << 8
    signs = part(blocks, 34, 32)
    factors = nibbles_of(part(blocks, 74, 8))
    units = fraction(part(blocks, 0, 1, "<f2"), 8)
    return grid_run("IQ2_S", indices, signs, either_sign(grid("IQ2_S")[1]), units, factors)
