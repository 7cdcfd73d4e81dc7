"""IQ3_S: 256 weights, 4 at a time from a grid of 512 entries, with signs; a scale for 32 of them.

A block is 110 bytes::

      0  the block's scale, float16
      2  64 bytes: the low bits of entries of the grid
     66  8 bytes of their upper bits, bit i of byte j that of entry 8 j + i
     74  32 bytes of signs, bit i of byte j that of weight 8 j + i
    106  4 bytes, byte j: the scale of group 2 j in the low nibble, that of group 2 j + 1 in the high one

    weight = sign * grid * (2 * four bits + 1) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._grids import bits_of, either_sign, grid, grid_run, nibbles_of, part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import ArrayType
    from shimmy.gguf.quant import AffineRun


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register IQ3_S."""
    register(QuantTypeSpec("IQ3_S", ggml_id=21, block_elements=256, block_bytes=110, load=load))


def load() -> ArrayType:
    """The type itself."""
    from shimmy.gguf.blocks import ArrayType

    return ArrayType(run)


def run(blocks: NDArray[np.uint8]) -> AffineRun:
    """(blocks, bytes) -> a run with a row for each block."""
    indices = part(blocks, 2, 64) | bits_of(part(blocks, 66, 8)).astype("u2") << 8
    signs = part(blocks, 74, 32)
    factors = nibbles_of(part(blocks, 106, 4))
    values = either_sign(grid("IQ3_S")[1])
    return grid_run("IQ3_S", indices, signs, values, part(blocks, 0, 1, "<f2"), factors)
