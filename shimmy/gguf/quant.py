"""What a quant type must be able to do, and the few lossless layouts engines run on.

There are three levels, each optional beyond the first:

0. ``dequantize_blocks``, in NumPy: engines expand the weights to F32.
1. ``to_run``, in NumPy: the same numbers as codes and scales; engines run them in compact form
   without knowing the file format.
2. ``unpack``: how a block is taken apart, said once in terms of :class:`Block`. NumPy computes it
   (:class:`shimmy.gguf.blocks.BlockType` derives the other two levels), and an engine may make
   native code of it, which loads a model several times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import PluginError

Bytes8: TypeAlias = "NDArray[np.uint8] | NDArray[np.int8]"
Units: TypeAlias = "NDArray[np.float16] | NDArray[np.float32] | NDArray[np.uint8]"

#: Columns that may share a scale in a run layout, the width of codes, and that of codes with a codebook.
GROUPS, MOST_BITS, CODEBOOK_BITS = (16, 32), 8, 4


@dataclass(frozen=True, slots=True)
class Scales:
    """A number for each group of columns: a float, or a float for several groups times a small integer."""

    units: Units
    """(rows, columns / group), or with factors (rows, columns / span). Of uint8: 2**(unit - 128)."""
    factors: Bytes8 | None = None
    """(rows, columns / group) of uint8 or int8; unit * factor is exact in F32."""
    factor_bits: int = 8
    """4: factors are uint8 below 16, so that engines may store two in a byte."""

    @property
    def groups(self) -> int:
        """Groups of columns in a row."""
        return int((self.units if self.factors is None else self.factors).shape[1])

    def values(self) -> NDArray[np.float32]:
        """(rows, columns / group)."""
        if self.units.dtype == np.uint8:
            units = _powers(self.units)
        else:
            units = self.units.astype(np.float32, copy=False)
        if self.factors is None:
            return units
        return units.repeat(self.factors.shape[1] // units.shape[1], axis=1) * self.factors


def _powers(exponents: Units) -> NDArray[np.float32]:
    """2**(exponent - 128), exactly; the two smallest are below what F32 has in full precision."""
    wide = exponents.astype(np.uint32)
    return np.where(wide < 2, wide + 1 << 21, wide - 1 << 23).astype(np.uint32).view(np.float32)


@dataclass(frozen=True, slots=True)
class AffineRun:
    """Weights of some rows as ``scale * number + offset``, lossless: equal to ``dequantize_blocks``.

    A number is a code itself, or what the codebook has for it. One multiply and one add, the product
    exact in F32, so a fused multiply-add gives the same bits.
    All rows of a tensor have the same form: bits, group, and what scales and offsets consist of.
    """

    codes: NDArray[np.uint8]
    """(rows, columns), unsigned, below ``2**bits``."""
    bits: int
    """1 to 8: the width an engine packs the codes to."""
    group: int
    """16 or 32 consecutive columns share a scale and an offset."""
    scales: Scales
    offsets: Scales | int
    """An integer is the number of weight 0: every offset is its scale * -zero, and none is stored."""
    codebook: tuple[int, ...] = ()
    """For each code, of at most 4 bits, a number from 0 to 255; empty if codes are numbers themselves."""

    def __post_init__(self) -> None:
        if self.group not in GROUPS or not 1 <= self.bits <= MOST_BITS:
            raise PluginError(
                f"a run layout has codes of {self.bits} bits in groups of {self.group} columns; "
                f"expected 1 to {MOST_BITS} bits, and groups of 16 or 32 columns."
            )
        if self.codebook and (self.bits > CODEBOOK_BITS or len(self.codebook) != 2**self.bits):
            raise PluginError(
                f"a run layout has a codebook of {len(self.codebook)} numbers for codes of {self.bits} bits; "
                f"expected codes of at most {CODEBOOK_BITS} bits, and a number for each."
            )
        groups = self.codes.shape[1] // self.group
        for scales in (self.scales, self.offsets):
            if isinstance(scales, Scales) and scales.groups != groups:
                raise PluginError(
                    f"a run layout has scales or offsets for {scales.groups} groups of columns in a row; "
                    f"expected {groups} groups of {self.group}."
                )

    def numbers(self) -> NDArray[np.uint8]:
        """(rows, columns): what scales multiply."""
        return np.array(self.codebook, np.uint8)[self.codes] if self.codebook else self.codes

    def offset_values(self) -> NDArray[np.float32]:
        """(rows, columns / group)."""
        if isinstance(self.offsets, Scales):
            return self.offsets.values()
        return self.scales.values() * np.float32(-self.offsets)


@dataclass(frozen=True, slots=True)
class FloatRun:
    """Weights of some rows as they are: (rows, columns) of float32, float16, or uint16 holding bfloat16."""

    values: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]


class QuantType(Protocol):
    """A tensor type of the file format. ``blocks`` is (number of blocks, bytes per block) of uint8."""

    def dequantize_blocks(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(blocks, bytes) -> (blocks, elements per block), bit-exact with ggml's own."""
        ...


@runtime_checkable
class RunnableQuantType(QuantType, Protocol):
    """A quant type that also offers its numbers in a run layout."""

    def to_run(self, blocks: NDArray[np.uint8], rows: int) -> AffineRun | FloatRun:
        """Blocks of whole consecutive rows -> their run layout; blocks of a row are adjacent."""
        ...


class Bytes(Protocol):
    """Some bytes of a block, next to each other, computed all alike."""

    @property
    def count(self) -> int:
        """How many they are."""
        ...

    def field(self, first: int, bits: int) -> Self:
        """From each byte, ``bits`` bits from bit ``first`` on, as a number."""
        ...

    def spread(self, bits: int) -> Self:
        """Of each byte all fields of 1, 2 or 4 bits, a byte for each, the lowest first."""
        ...

    def __or__(self, other: Self) -> Self: ...

    def __xor__(self, other: int) -> Self: ...

    def __lshift__(self, by: int) -> Self:
        """Each byte times 2**by, which must fit a byte."""
        ...


B = TypeVar("B", bound=Bytes)
H_co = TypeVar("H_co", covariant=True)


class Block(Protocol[B, H_co]):
    """A block being taken apart: of bytes and units of scales, whatever an engine makes of these."""

    def bytes(self, at: int, count: int) -> B:
        """``count`` bytes from byte ``at`` on."""
        ...

    def half(self, at: int, *, negative: bool = False) -> H_co:
        """The float16 at byte ``at``, or minus it."""
        ...

    def power(self, at: int) -> H_co:
        """2**(byte ``at`` - 128): half of what it is as a scale of OCP's microscaling formats (E8M0)."""
        ...

    def join(self, *parts: B) -> B:
        """One after the other."""
        ...


@dataclass(frozen=True, slots=True)
class BlockScales(Generic[B, H_co]):
    """The scales, or offsets, of a block's groups: a unit, which may be times a small integer each."""

    unit: H_co
    factors: B | None = None
    """One byte per group; None if all of the block has the unit itself."""
    signed: bool = False
    """Whether the factors are int8."""
    factor_bits: int = 8
    """4: they are below 16."""

    def or_factors(self, factors: B) -> Self:
        """With these factors where there are none."""
        return replace(self, factors=factors) if self.factors is None else self


@dataclass(frozen=True, slots=True)
class BlockParts(Generic[B, H_co]):
    """A block taken apart; see :class:`AffineRun` for what these are."""

    codes: B
    bits: int
    scales: BlockScales[B, H_co]
    offsets: BlockScales[B, H_co] | int
    codebook: tuple[int, ...] = ()

    def by_group(self, block: Block[B, H_co]) -> Self:
        """The same, with factors of 1 where a scale or offset is that of several groups."""
        offsets = self.offsets
        both = (self.scales,) if isinstance(offsets, int) else (self.scales, offsets)
        counts = [each.factors.count for each in both if each.factors is not None]
        groups = max(counts, default=self.codes.count // max(GROUPS))
        if groups <= 1:
            return self
        ones = block.bytes(0, groups).field(0, 0) ^ 1
        return replace(
            self,
            scales=self.scales.or_factors(ones),
            offsets=offsets if isinstance(offsets, int) else offsets.or_factors(ones),
        )


@runtime_checkable
class UnpackedQuantType(RunnableQuantType, Protocol):
    """A quant type that says how its blocks are taken apart, whoever computes it."""

    def unpack(self, block: Block[B, H_co]) -> BlockParts[B, H_co]:
        """The parts of a block."""
        ...


@runtime_checkable
class WritableQuantType(QuantType, Protocol):
    """A quant type that can also be written."""

    def quantize_blocks(self, weights: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(blocks, elements per block) -> (blocks, bytes), bit-exact with ggml's own reference."""
        ...
