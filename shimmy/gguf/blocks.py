"""Quant types in NumPy, derived from how a block is taken apart: by an engine too, or by NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, B, Block, BlockParts, BlockScales, H_co, Scales, Units

#: Of uint8; Any because to NumPy's annotations uint8 >> int is some signed integer.
_Array: TypeAlias = NDArray[Any]


class Unpack(Protocol):
    """A function that takes a block apart."""

    def __call__(self, block: Block[B, H_co], /) -> BlockParts[B, H_co]: ...


@dataclass(frozen=True, slots=True)
class BlockType:
    """A quant type of codes and scales: all levels of :mod:`shimmy.gguf.quant` from one function."""

    unpack: Unpack

    def dequantize_blocks(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(blocks, bytes) -> (blocks, elements)."""
        return _weights(self.to_run(blocks, len(blocks)))

    def to_run(self, blocks: NDArray[np.uint8], rows: int) -> AffineRun:
        """Blocks of whole rows -> codes, scales and offsets by row."""
        block = _NumpyBlock(blocks)
        parts = self.unpack(block).by_group(block)
        factors, offsets = parts.scales.factors, parts.offsets
        return AffineRun(
            codes=parts.codes.array.reshape(rows, -1),
            bits=parts.bits,
            group=parts.codes.count // (factors.count if factors else 1),
            scales=_by_row(parts.scales, rows),
            offsets=offsets if isinstance(offsets, int) else _by_row(offsets, rows),
            codebook=parts.codebook,
        )


@dataclass(frozen=True, slots=True)
class WritableBlockType(BlockType):
    """One whose blocks can be made as well."""

    pack: Callable[[NDArray[np.float32]], NDArray[np.uint8]]

    def quantize_blocks(self, weights: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(blocks, elements) -> (blocks, bytes)."""
        return self.pack(weights)


@dataclass(frozen=True, slots=True)
class ArrayType:
    """A quant type that only NumPy takes apart: ``run`` gives a run with a row for each block."""

    run: Callable[[NDArray[np.uint8]], AffineRun]

    def dequantize_blocks(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(blocks, bytes) -> (blocks, elements)."""
        return _weights(self.run(blocks))

    def to_run(self, blocks: NDArray[np.uint8], rows: int) -> AffineRun:
        """Blocks of whole rows -> codes, scales and offsets by row."""
        run = self.run(blocks)
        offsets = run.offsets
        return replace(
            run,
            codes=run.codes.reshape(rows, -1),
            scales=_reshaped(run.scales, rows),
            offsets=offsets if isinstance(offsets, int) else _reshaped(offsets, rows),
        )


def _weights(run: AffineRun) -> NDArray[np.float32]:
    """(rows, columns), with ggml's signs of zeros."""
    weights = run.numbers().astype(np.float32).reshape(len(run.codes), -1, run.group)
    # With a zero it is subtracted first, as ggml does: 0 times a negative scale is -0.
    if isinstance(run.offsets, int):
        weights -= run.offsets
    weights *= run.scales.values()[:, :, None]
    if isinstance(run.offsets, Scales):
        weights += run.offsets.values()[:, :, None]
    return weights.reshape(run.codes.shape)


def _reshaped(scales: Scales, rows: int) -> Scales:
    factors = None if scales.factors is None else scales.factors.reshape(rows, -1)
    return Scales(scales.units.reshape(rows, -1), factors, scales.factor_bits)


@dataclass(frozen=True, slots=True)
class _NumpyBytes:
    """The same bytes of all blocks: (blocks, bytes) of uint8, contiguous."""

    array: _Array

    @property
    def count(self) -> int:
        return int(self.array.shape[1])

    def field(self, first: int, bits: int) -> _NumpyBytes:
        words = self._words()
        mask = int.from_bytes(bytes([2**bits - 1] * words.itemsize), "little")
        return self._of(words >> words.dtype.type(first) & words.dtype.type(mask))

    def spread(self, bits: int) -> _NumpyBytes:
        if bits == 1:
            return _NumpyBytes(np.unpackbits(self.array, axis=1, bitorder="little"))
        fields = self.array[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8)
        return _NumpyBytes((fields & np.uint8(2**bits - 1)).reshape(len(fields), -1))

    def __or__(self, other: _NumpyBytes) -> _NumpyBytes:
        return self._of(self._words() | other._words())

    def __xor__(self, other: int) -> _NumpyBytes:
        return _NumpyBytes(self.array ^ np.uint8(other))

    def __lshift__(self, by: int) -> _NumpyBytes:
        words = self._words()
        return self._of(words << words.dtype.type(by))

    def _words(self) -> _Array:
        """As few and as wide elements as possible: no bit ever moves to another byte."""
        return self.array.view("u8" if self.array.shape[1] % 8 == 0 else "u1")

    def _of(self, words: _Array) -> _NumpyBytes:
        return _NumpyBytes(words.view(np.uint8))


@dataclass(frozen=True, slots=True)
class _NumpyBlock:
    """All blocks at once: (blocks, bytes) of uint8."""

    blocks: NDArray[np.uint8]

    def bytes(self, at: int, count: int) -> _NumpyBytes:
        return _NumpyBytes(np.ascontiguousarray(self.blocks[:, at : at + count]))

    def half(self, at: int, *, negative: bool = False) -> Units:
        """(blocks, 1)."""
        values = np.ascontiguousarray(self.blocks[:, at : at + 2]).view("<f2")
        return -values if negative else values

    def power(self, at: int) -> Units:
        """(blocks, 1), the exponents."""
        return np.ascontiguousarray(self.blocks[:, at : at + 1])

    def join(self, *parts: _NumpyBytes) -> _NumpyBytes:
        return _NumpyBytes(np.concatenate([part.array for part in parts], axis=1))


def _by_row(scales: BlockScales[_NumpyBytes, Units], rows: int) -> Scales:
    units = scales.unit.reshape(rows, -1)
    if scales.factors is None:
        return Scales(units)
    factors = scales.factors.array.view("i1" if scales.signed else "u1").reshape(rows, -1)
    return Scales(units, factors, scales.factor_bits)
