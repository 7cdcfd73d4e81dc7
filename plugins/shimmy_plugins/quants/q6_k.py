"""Q6_K: 256 weights of 6 bits, in 16 groups of 16 with a scale each.

A block is 210 bytes::

      0  low nibbles, 64 bytes for each half of the block: 64 in the low nibbles, 64 in the high
    128  top two bits, 32 bytes for each half: 32 in the lowest two bits of the bytes, and so on
    192  16 x int8: scales, in units of
    208  the block's scale, float16

    weight = (code - 32) * int8 * scale
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
    """Register Q6_K."""
    register(QuantTypeSpec("Q6_K", ggml_id=14, block_elements=256, block_bytes=210, load=load))


def load() -> CodeType:
    """The type itself."""
    return CodeType(unpack, bits=8)


def unpack(blocks: Bytes) -> Centred:
    """Take blocks apart."""
    low = fields(blocks[:, 0:128].reshape(-1, 2, 64), 4)
    high = fields(blocks[:, 128:192].reshape(-1, 2, 32), 2)
    scales = float16(blocks, 208) * blocks[:, 192:208].view("i1")
    return Centred((low | high << 4).reshape(-1, 256), scales, zero=32)
