"""Q4_0: 32 weights of 4 bits with a scale.

A block is 18 bytes::

     0  scale, float16
     2  16 bytes, byte i: weight i in the low nibble, weight i + 16 in the high one

    weight = (code - 8) * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import nibbles, quantize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import WritableBlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q4_0."""
    register(QuantTypeSpec("Q4_0", ggml_id=2, block_elements=32, block_bytes=18, load=load))


def load() -> WritableBlockType:
    """The type itself."""
    from shimmy.gguf.blocks import WritableBlockType

    return WritableBlockType(unpack, pack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    return BlockParts(nibbles(block, 2, 16), 4, BlockScales(block.half(0)), 8)


def pack(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make blocks."""
    return quantize(weights, "Q4_0")
