"""Q5_K: 256 weights of 5 bits, in 8 groups of 32 with a scale and a minimum each.

A block is 176 bytes::

     0  16 bytes of scales and minimums, see ``k_scales``
    16  32 bytes of fifth bits: bit g of byte i is that of weight i in group g
    48  128 bytes of low nibbles, 32-byte run j: group 2j in the low nibbles, group 2j + 1 in the high ones

    weight = scale * code - minimum
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import k_nibbles, k_scales

if TYPE_CHECKING:
    from shimmy.gguf.blocks import BlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q5_K."""
    register(QuantTypeSpec("Q5_K", ggml_id=13, block_elements=256, block_bytes=176, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts

    fifth = block.bytes(16, 32)
    high = block.join(*(fifth.field(group, 1) << 4 for group in range(8)))
    return BlockParts(k_nibbles(block, 48) | high, 5, *k_scales(block))
