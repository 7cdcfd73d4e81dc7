"""Q2_K: 256 weights of 2 bits, in 16 groups of 16 with a scale and a minimum each.

A block is 84 bytes::

     0  16 bytes, byte g: the scale of group g in the low nibble, its minimum in the high one, in units of
    80  float16, for scales
    82  float16, for minimums
    16  64 bytes of codes, 32 for each half of the block: 32 in the lowest two bits of the bytes, and so on

    weight = scale * code - minimum
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import two_bits

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q2_K."""
    register(QuantTypeSpec("Q2_K", ggml_id=10, block_elements=256, block_bytes=84, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    both = block.bytes(0, 16)
    scales = BlockScales(block.half(80), both.field(0, 4), factor_bits=4)
    minimums = BlockScales(block.half(82, negative=True), both.field(4, 4), factor_bits=4)
    return BlockParts(two_bits(block, 16), 2, scales, minimums)
