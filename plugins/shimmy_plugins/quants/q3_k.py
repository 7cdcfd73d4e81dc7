"""Q3_K: 256 weights of 3 bits, in 16 groups of 16 with a scale each.

A block is 110 bytes::

      0  32 bytes of third bits: bit g of byte i is that of weight i of the 32 from 32 g on
     32  64 bytes of the bits below, 32 for each half of the block: 32 in the lowest bits, and so on
     96  8 bytes, byte g: the low bits of scale g in the low nibble, those of scale g + 8 in the high one
    104  4 bytes of the upper two bits of scales, those of scale 4 j + g in byte g from bit 2 j on
    108  the block's scale, float16

    weight = (code - 4) * (six bits - 32) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import less_32, two_bits

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q3_K."""
    register(QuantTypeSpec("Q3_K", ggml_id=11, block_elements=256, block_bytes=110, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    third = block.bytes(0, 32)
    high = block.join(*(third.field(group, 1) << 2 for group in range(8)))
    low_scales, top = block.bytes(96, 8), block.bytes(104, 4)
    low = block.join(low_scales.field(0, 4), low_scales.field(4, 4))
    six_bits = low | block.join(*(top.field(first, 2) << 4 for first in (0, 2, 4, 6)))
    scales = BlockScales(block.half(108), less_32(six_bits), signed=True)
    return BlockParts(two_bits(block, 32) | high, 3, scales, 4)
