"""Q5_1: 32 weights of 5 bits with a scale and a minimum.

A block is 24 bytes::

     0  scale, float16
     2  minimum, float16
     4  uint32 of fifth bits, bit i that of weight i
     8  16 bytes of low nibbles, byte i: weight i in the low nibble, weight i + 16 in the high one

    weight = scale * code + minimum
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants._blocks import Affine, CodeType, five_bits, float16

if TYPE_CHECKING:
    from shimmy_plugins.quants._blocks import Bytes


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q5_1."""
    register(QuantTypeSpec("Q5_1", ggml_id=7, block_elements=32, block_bytes=24, load=load))


def load() -> CodeType:
    """The type itself."""
    return CodeType(unpack, bits=8)


def unpack(blocks: Bytes) -> Affine:
    """Take blocks apart."""
    return Affine(five_bits(blocks[:, 4:8], blocks[:, 8:24]), float16(blocks, 0), float16(blocks, 2))
