"""Q2_0: 64 weights of 2 bits with a scale.

A block is 18 bytes::

     0  scale, float16
     2  16 bytes, weight 4 i + j in bits 2 j and 2 j + 1 of byte i

    weight = (code - 1) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q2_0."""
    register(QuantTypeSpec("Q2_0", ggml_id=42, block_elements=64, block_bytes=18, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    return BlockParts(block.bytes(2, 16).spread(2), 2, BlockScales(block.half(0)), 1)
