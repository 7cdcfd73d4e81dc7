"""Q6_K: 256 weights of 6 bits, in 16 groups of 16 with a scale each.

A block is 210 bytes::

      0  low nibbles, 64 bytes for each half of the block: 64 in the low nibbles, 64 in the high
    128  top two bits, 32 bytes for each half: 32 in the lowest two bits of the bytes, and so on
    192  16 x int8: scales, in units of
    208  the block's scale, float16

    weight = (code - 32) * int8 * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import nibbles, two_bits

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q6_K."""
    register(QuantTypeSpec("Q6_K", ggml_id=14, block_elements=256, block_bytes=210, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    low = block.join(*(nibbles(block, half, 64) for half in (0, 64)))
    scales = BlockScales(block.half(208), block.bytes(192, 16), signed=True)
    return BlockParts(low | two_bits(block, 128) << 4, 6, scales, 32)
