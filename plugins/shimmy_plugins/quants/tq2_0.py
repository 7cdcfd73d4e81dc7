"""TQ2_0: 256 weights of -1, 0 or 1, 4 to a byte, and a scale.

A block is 66 bytes::

     0  64 bytes of codes, 32 for each half of the block: 32 in the lowest two bits, and so on
    64  scale, float16

    weight = (code - 1) * scale
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
    """Register TQ2_0."""
    register(QuantTypeSpec("TQ2_0", ggml_id=35, block_elements=256, block_bytes=66, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    return BlockParts(two_bits(block, 0), 2, BlockScales(block.half(64)), 1)
