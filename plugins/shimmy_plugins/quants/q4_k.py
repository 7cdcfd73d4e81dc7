"""Q4_K: 256 weights of 4 bits, in 8 groups of 32 with a scale and a minimum each.

A block is 144 bytes::

     0  16 bytes of scales and minimums, see ``k_scales``
    16  128 bytes, 32-byte run j: group 2j in the low nibbles, group 2j + 1 in the high ones

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
    """Register Q4_K."""
    register(QuantTypeSpec("Q4_K", ggml_id=12, block_elements=256, block_bytes=144, load=load))


def load() -> BlockType:
    """The type itself."""
    from shimmy.gguf.blocks import BlockType

    return BlockType(unpack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts

    return BlockParts(k_nibbles(block, 16), 4, *k_scales(block))
