"""What the quant types share: taking packed bytes apart, and the two kinds of type.

Every quant plugin imports this while plugins are collected, so NumPy is imported in the bodies.

Shapes: ``blocks`` is (number of blocks, bytes per block) of uint8; codes and weights are
(blocks, elements per block), scales and offsets (blocks, groups per block) of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shimmy.gguf.quant import AffineRun, FloatRun

    # Of uint8; Any because to NumPy's annotations uint8 >> int is some signed integer.
    Bytes: TypeAlias = NDArray[Any]
    Floats: TypeAlias = NDArray[np.float32]


def float16(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte ``at`` of each block, as float32: (blocks, 1)."""
    return blocks[:, at : at + 2].view("<f2").astype("f4")


def fields(packed: Bytes, bits: int) -> Bytes:
    """Split each byte into fields of ``bits``: the lowest of all bytes, then the next of all, ….

    (…, n) -> (…, n * 8 / bits); with 4 bits: n low nibbles, then n high ones.
    """
    import numpy as np

    # As few and as wide elements as possible, in long strides: eight bytes at a time where they fit.
    packed = np.ascontiguousarray(packed)
    word = np.dtype("u8" if packed.shape[-1] % 8 == 0 else "u1")
    words = packed.view(word)
    mask = word.type(int.from_bytes(bytes([2**bits - 1] * word.itemsize), "little"))
    split = np.empty((*packed.shape[:-1], 8 // bits, words.shape[-1]), word)
    for i in range(8 // bits):
        field = words >> word.type(i * bits) & mask
        for column in range(words.shape[-1]):
            split[..., i, column] = field[..., column]
    return split.view(np.uint8).reshape(*packed.shape[:-1], -1)


def five_bits(fifth: Bytes, nibbles: Bytes) -> Bytes:
    """The codes of Q5_0 and Q5_1 from their fifth bits (blocks, 4) and low nibbles (blocks, 16)."""
    # One byte holds the fifth bits of eight neighbours: split each byte by itself.
    high = fields(fifth[:, :, None], 1).reshape(-1, 32)
    codes: Bytes = fields(nibbles, 4) | high << 4
    return codes


def k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Scales and offsets (blocks, 8) from the first 16 bytes of a Q4_K or Q5_K block.

    Bytes 0 and 2 hold a float16 each, what the block's scales and minimums are multiples of.
    The 12 bytes from 4 on hold 8 scales and 8 minimums of 6 bits: bytes 0-3 of them scales 0-3 and
    bytes 4-7 minimums 0-3, in their low 6 bits; bytes 8-11 in the low nibble the low bits of scales
    4-7 and in the high nibble those of minimums 4-7, whose top two bits are those left in bytes 0-7.
    """
    import numpy as np

    first, second, split = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, (split & 15) | (first >> 6 << 4)], axis=1)
    minimums = np.concatenate([second & 63, (split >> 4) | (second >> 6 << 4)], axis=1)
    return float16(blocks, 0) * scales, -(float16(blocks, 2) * minimums)


@dataclass(frozen=True, slots=True)
class Centred:
    """Blocks taken apart: weight = (code - zero) * scale."""

    codes: Bytes
    scales: Floats
    zero: int

    @property
    def offsets(self) -> Floats:
        """With these, ``scale * code + offset`` is the same number (but +0 where ``values`` may say -0)."""
        return self.scales * -self.zero

    def values(self) -> Floats:
        """The weights."""
        groups = _by_group(self.codes, self.scales)
        groups -= self.zero
        groups *= self.scales[:, :, None]
        return groups.reshape(self.codes.shape)


@dataclass(frozen=True, slots=True)
class Affine:
    """Blocks taken apart: weight = scale * code + offset."""

    codes: Bytes
    scales: Floats
    offsets: Floats

    def values(self) -> Floats:
        """The weights."""
        groups = _by_group(self.codes, self.scales)
        groups *= self.scales[:, :, None]
        groups += self.offsets[:, :, None]
        return groups.reshape(self.codes.shape)


def _by_group(codes: Bytes, scales: Floats) -> Floats:
    """Codes as new floats, (blocks, groups, elements per group)."""
    return codes.astype("f4").reshape(*scales.shape, codes.shape[1] // scales.shape[1])


@dataclass(frozen=True, slots=True)
class CodeType:
    """A quant type of codes and scales, given how to take its blocks apart."""

    unpack: Callable[[Bytes], Centred | Affine]
    bits: int
    """The width engines pack the codes to, 4 or 8."""

    def dequantize_blocks(self, blocks: Bytes) -> Floats:
        """(blocks, bytes) -> (blocks, elements)."""
        return self.unpack(blocks).values()

    def to_run(self, blocks: Bytes, rows: int) -> AffineRun:
        """Blocks of whole rows -> codes, scales and offsets by row."""
        from shimmy.gguf.quant import AffineRun

        parts = self.unpack(blocks)
        return AffineRun(
            codes=parts.codes.reshape(rows, -1),
            bits=self.bits,
            group=parts.codes.shape[1] // parts.scales.shape[1],
            scales=parts.scales.reshape(rows, -1),
            offsets=parts.offsets.reshape(rows, -1),
        )


@dataclass(frozen=True, slots=True)
class FloatType:
    """A type of plain floats: NumPy's name of what is stored, and how to make float32 of it."""

    stored: str
    widen: Callable[[NDArray[Any]], Floats]

    def dequantize_blocks(self, blocks: Bytes) -> Floats:
        """(blocks, bytes) -> (blocks, 1)."""
        return self.widen(blocks.view(self.stored))

    def to_run(self, blocks: Bytes, rows: int) -> FloatRun:
        """Blocks of whole rows -> the floats as stored, by row; a view."""
        from shimmy.gguf.quant import FloatRun

        return FloatRun(blocks.view(self.stored).reshape(rows, -1))
