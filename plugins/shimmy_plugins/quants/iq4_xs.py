"""IQ4_XS: 256 weights of 4 bits, in 8 groups of 32 with a scale each; codes stand for values as in IQ4_NL.

A block is 136 bytes::

     0  the block's scale, float16
     2  uint16 with the upper two bits of scales, those of scale g from bit 2 g on
     4  4 bytes with the low bits of scales, byte j: of scale 2 j in the low nibble, 2 j + 1 in the high one
     8  128 bytes, 16-byte run g: the first half of group g in the low nibbles, the other in the high ones

    weight = IQ4_VALUES[code] * (six bits - 32) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import IQ4_VALUES, codebook, less_32, nibbles

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register IQ4_XS."""
    register(QuantTypeSpec("IQ4_XS", ggml_id=23, block_elements=256, block_bytes=136, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    codes = block.join(*(nibbles(block, 8 + run, 16) for run in range(0, 128, 16)))
    six_bits = block.bytes(4, 4).spread(4) | block.bytes(2, 2).spread(2) << 4
    scales = BlockScales(block.half(0), less_32(six_bits), signed=True)
    return BlockParts(codes, 4, scales, *codebook(IQ4_VALUES))
