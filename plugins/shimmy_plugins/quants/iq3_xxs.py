"""IQ3_XXS: 256 weights, 4 at a time from a grid of 256 entries, with signs; a scale for 32 of them.

A block is 98 bytes::

     0  the block's scale, float16
     2  64 bytes: entries of the grid
    66  8 x uint32, one for each group: 4 x 7 signs and 4 bits of scale

    weight = sign * grid * (four bits + 1/2) * scale / 2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._grids import either_sign, even_signs, fields, fraction, grid, grid_run, part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import ArrayType
    from shimmy.gguf.quant import AffineRun


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register IQ3_XXS."""
    register(QuantTypeSpec("IQ3_XXS", ggml_id=18, block_elements=256, block_bytes=98, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    rest = part(blocks, 66, 8, "<u4")
    signs = even_signs(fields(rest, (0, 7, 14, 21), 7))
    units = fraction(part(blocks, 0, 1, "<f2"), 4)
    values = either_sign(grid("IQ3_XXS")[1])
    return grid_run("IQ3_XXS", part(blocks, 2, 64), signs, values, units, rest >> 28)
