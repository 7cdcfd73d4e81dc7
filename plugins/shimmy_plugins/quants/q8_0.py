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
from shimmy_plugins.quants._blocks import Centred, CodeType, float16

if TYPE_CHECKING:
    from shimmy_plugins.quants._blocks import Bytes


@hookimpl
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Register Q8_0."""
    register(QuantTypeSpec("Q8_0", ggml_id=8, block_elements=32, block_bytes=34, load=load))


def load() -> CodeType:
    """The type itself."""
    return CodeType(unpack, bits=8)


def unpack(blocks: Bytes) -> Centred:
    """Take blocks apart."""
    # Flipping the sign bit makes int8 a code from 0 to 255 with its zero at 128.
    return Centred(blocks[:, 2:34] ^ 128, float16(blocks, 0), zero=128)
