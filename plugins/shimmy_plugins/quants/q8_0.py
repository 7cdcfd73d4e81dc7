"""Q8_0: 32 weights of 8 bits with a scale.

A block is 34 bytes::

     0  scale, float16
     2  32 x int8

    weight = int8 * scale
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import quantize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import WritableBlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q8_0."""
    register(QuantTypeSpec("Q8_0", ggml_id=8, block_elements=32, block_bytes=34, load=load))


def load() -> WritableBlockType:
    """The type itself."""
    from shimmy.gguf.blocks import WritableBlockType

    return WritableBlockType(unpack, pack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    # Flipping the sign bit makes int8 a code from 0 to 255 with its zero at 128.
    return BlockParts(block.bytes(2, 32) ^ 128, 8, BlockScales(block.half(0)), 128)


def pack(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make blocks."""
    return quantize(weights, "Q8_0")
