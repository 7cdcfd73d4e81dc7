"""IQ4_NL: 32 weights of 4 bits with a scale, codes standing for values that lie closer around 0.

A block is 18 bytes::

     0  scale, float16
     2  16 bytes, byte i: weight i in the low nibble, weight i + 16 in the high one

    weight = IQ4_VALUES[code] * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import IQ4_VALUES, codebook, nibbles

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register IQ4_NL."""
    register(QuantTypeSpec("IQ4_NL", ggml_id=20, block_elements=32, block_bytes=18, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    return BlockParts(nibbles(block, 2, 16), 4, BlockScales(block.half(0)), *codebook(IQ4_VALUES))
