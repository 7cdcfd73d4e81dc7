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
from shimmy_plugins.quants._blocks import Centred, CodeType, fields, float16

if TYPE_CHECKING:
    from shimmy_plugins.quants._blocks import Bytes


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q4_0."""
    register(QuantTypeSpec("Q4_0", ggml_id=2, block_elements=32, block_bytes=18, load=load))


def load() -> CodeType:
    """The type itself."""
    return CodeType(unpack, bits=4)


def unpack(blocks: Bytes) -> Centred:
    """Take blocks apart."""
    return Centred(fields(blocks[:, 2:18], 4), float16(blocks, 0), zero=8)
