"""MXFP4: 32 weights as floats of 4 bits with a power of two as their scale (OCP microscaling formats, 2023).

A block is 17 bytes::

     0  the scale, its exponent of 2 plus 127
     1  16 bytes, byte i: weight i in the low nibble, weight i + 16 in the high one

    weight = _DOUBLED[code] * scale / 2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import codebook, nibbles, quantize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.blocks import WritableBlockType
    from shimmy.gguf.quant import B, Block, BlockParts, H_co

#: Floats of a sign, two bits of exponent and one of mantissa, doubled: then they are whole numbers.
_POSITIVE = (0, 1, 2, 3, 4, 6, 8, 12)
_DOUBLED = (*_POSITIVE, *(-value for value in _POSITIVE))


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register MXFP4."""
    register(QuantTypeSpec("MXFP4", ggml_id=39, block_elements=32, block_bytes=17, load=load))


def load() -> WritableBlockType:
    """The type itself."""
    from shimmy.gguf.blocks import WritableBlockType

    return WritableBlockType(unpack, pack)


def unpack(block: Block[B, H_co]) -> BlockParts[B, H_co]:
    """Take a block apart."""
    from shimmy.gguf.quant import BlockParts, BlockScales

    return BlockParts(nibbles(block, 1, 16), 4, BlockScales(block.power(0)), *codebook(_DOUBLED))


def pack(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make blocks."""
    return quantize(weights, "MXFP4")
