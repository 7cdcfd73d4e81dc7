"""IQ2_XXS: 256 weights, 8 at a time from a grid of 256 entries, with signs; a scale for 32 of them.

A block is 66 bytes::

     0  the block's scale, float16
     2  8 x 8 bytes, for each group 4 entries of the grid, then a uint32 of 4 x 7 signs and 4 bits of scale

    weight = sign * grid * (four bits + 1/2) * scale / 4
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
    """Register IQ2_XXS."""
    register(QuantTypeSpec("IQ2_XXS", ggml_id=16, block_elements=256, block_bytes=66, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    halves = part(blocks, 2, 16, "<u4")
    entries, rest = halves[:, ::2], halves[:, 1::2]
    signs = even_signs(fields(rest, (0, 7, 14, 21), 7))
    units = fraction(part(blocks, 0, 1, "<f2"), 8)
    indices = fields(entries, (0, 8, 16, 24), 8)
    return grid_run("IQ2_XXS", indices, signs, either_sign(grid("IQ2_XXS")[1]), units, rest >> 28)
