"""Q1_0: 128 weights of 1 bit with a scale.

A block is 18 bytes::

     0  scale, float16
     2  16 bytes, weight 8 i + j in bit j of byte i: 1 for the scale, 0 for minus it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import codebook

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q1_0."""
    register(QuantTypeSpec("Q1_0", ggml_id=41, block_elements=128, block_bytes=18, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    return BlockParts(block.bytes(2, 16).spread(1), 1, BlockScales(block.half(0)), *codebook((-1, 1)))
