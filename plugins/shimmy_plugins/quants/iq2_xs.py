"""IQ2_XS: 256 weights, 8 at a time from a grid of 512 entries, with signs; a scale for 16 of them.

A block is 74 bytes::

     0  the block's scale, float16
     2  32 x uint16: 9 bits of entry of the grid, 7 signs
    66  8 bytes, byte j: the scale of group 2 j in the low nibble, that of group 2 j + 1 in the high one

    weight = sign * grid * (four bits + 1/2) * scale / 4
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._grids import either_sign, even_signs, fraction, grid, grid_run, nibbles_of, part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import ArrayType
    from shimmy.gguf.quant import AffineRun


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register IQ2_XS."""
    register(QuantTypeSpec("IQ2_XS", ggml_id=17, block_elements=256, block_bytes=74, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    entries = part(blocks, 2, 32, "<u2")
    factors = nibbles_of(part(blocks, 66, 8))
    units = fraction(part(blocks, 0, 1, "<f2"), 8)
    values = either_sign(grid("IQ2_XS")[1])
    return grid_run("IQ2_XS", entries & 511, even_signs(entries >> 9), values, units, factors)
