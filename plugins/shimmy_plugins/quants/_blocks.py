"""What the quant types share: bit fields that recur, and the types of plain floats.

Every quant plugin imports this while plugins are collected, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.quant import B, Block, BlockScales, FloatRun, H_co

#: What the codes of IQ4_NL and IQ4_XS stand for.
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def nibbles(block: Block[B, H_co], at: int, count: int) -> B:
    """2 * ``count`` codes from ``count`` bytes at ``at``: first all low nibbles, then all high ones."""
    packed = block.bytes(at, count)
    return block.join(packed.field(0, 4), packed.field(4, 4))


def five_bits(block: Block[B, H_co], at: int) -> B:
    """The 32 codes of Q5_0 and Q5_1 from their 4 bytes of fifth bits, and 16 bytes of low nibbles."""
    return nibbles(block, at + 4, 16) | block.bytes(at, 4).spread(1) << 4


def k_nibbles(block: Block[B, H_co], at: int) -> B:
    """256 codes from 128 bytes: run j of 32 has group 2j in the low nibbles, group 2j + 1 in the others."""
    return block.join(*(nibbles(block, at + run, 32) for run in range(0, 128, 32)))


def two_bits(block: Block[B, H_co], at: int) -> B:
    """256 codes from 64 bytes, 128 from each half of them: 32 in the bytes' lowest two bits, and so on."""
    halves = [block.bytes(at + half, 32) for half in (0, 32)]
    return block.join(*(bits.field(first, 2) for bits in halves for first in (0, 2, 4, 6)))


def less_32(six_bits: B) -> B:
    """From 0 to 63, the int8 that is less by 32: its sixth bit flipped is the sign, as are all above."""
    signed = six_bits ^ 32
    sign = signed.field(5, 1)
    return signed | sign << 6 | sign << 7


def codebook(values: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The zero and the codebook of codes that stand for these values."""
    zero = -min(values)
    return zero, tuple(value + zero for value in values)


def k_scales(block: Block[B, H_co]) -> tuple[BlockScales[B, H_co], BlockScales[B, H_co]]:
    """The 8 scales and offsets from the first 16 bytes of a Q4_K or Q5_K block.

    Bytes 0 and 2 hold a float16 each, what the block's scales and minimums are multiples of.
    The 12 bytes from 4 on hold 8 scales and 8 minimums of 6 bits: bytes 0-3 of them scales 0-3 and
    bytes 4-7 minimums 0-3, in their low 6 bits; bytes 8-11 in the low nibble the low bits of scales
    4-7 and in the high nibble those of minimums 4-7, whose top two bits are those left in bytes 0-7.
    """
    from shimmy.gguf.quant import BlockScales

    first, second, split = (block.bytes(at, 4) for at in (4, 8, 12))
    scales = block.join(first.field(0, 6), split.field(0, 4) | first.field(6, 2) << 4)
    minimums = block.join(second.field(0, 6), split.field(4, 4) | second.field(6, 2) << 4)
    return BlockScales(block.half(0), scales), BlockScales(block.half(2, negative=True), minimums)


def quantize(weights: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    """(blocks, elements) -> (blocks, bytes) of the type ggml calls so, as its reference makes them."""
    from gguf import GGMLQuantizationType, quants

    return quants.quantize(weights, GGMLQuantizationType[name])


@dataclass(frozen=True, slots=True)
class FloatType:
    """A type of plain floats: NumPy's name of what is stored, and how to make float32 of it, and back."""

    stored: str
    widen: Callable[[NDArray[Any]], NDArray[np.float32]]
    narrow: Callable[[NDArray[np.float32]], NDArray[Any]]

    def dequantize_blocks(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(blocks, bytes) -> (blocks, 1)."""
        return self.widen(blocks.view(self.stored))

    def quantize_blocks(self, weights: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(blocks, 1) -> (blocks, bytes), rounded to the nearest, halves to even."""
        import numpy as np

        return self.narrow(weights).astype(self.stored, copy=False).view(np.uint8)

    def to_run(self, blocks: NDArray[np.uint8], rows: int) -> FloatRun:
        """Blocks of whole rows -> the floats as stored, by row; a view."""
        from shimmy.gguf.quant import FloatRun

        return FloatRun(blocks.view(self.stored).reshape(rows, -1))
