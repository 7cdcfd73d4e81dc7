"""Rows of a run into the words of its GPU layout, in NumPy: what the layout means, byte by byte."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, FloatRun, Scales
from shimmy_plugins.backends.wgpu.layouts import (
    BLOCK,
    AffineLayout,
    GpuLayout,
    Part,
    Run,
    Stream,
    layout_of,
    padded,
)

#: (rows, words of a row).
Words: TypeAlias = NDArray[np.uint32]

#: Words of a block's codes, four to a word.
_CODE_WORDS = BLOCK // 4


def pack(layout: GpuLayout, run: Run) -> list[Words]:
    """The parts of a layout, in its order, for the rows of ``run``, which must be of this layout."""
    assert layout_of(run) == layout
    if isinstance(run, FloatRun):
        return [_widened(run.values, layout.parts[0], run.values.shape[1])]
    assert isinstance(layout, AffineLayout)
    scales = [words for stream in layout.streams for words in _pack_stream(stream, run)]
    return _pack_codes(layout, run.codes) + scales


def _pack_codes(layout: AffineLayout, codes: NDArray[np.uint8]) -> list[Words]:
    rows, columns = codes.shape
    whole = np.zeros((rows, padded(columns)), np.uint8)
    whole[:, :columns] = codes ^ np.uint8(layout.code_bias)  # flips the sign bit: less 128, as int8
    planes, low = [], 0
    for width in layout.planes:
        fields = (whole >> low & (2**width - 1)).astype(np.uint8, copy=False)
        # Word i of a block's codes goes to word i % width of the plane, i // width * width bits up.
        words = fields.view("<u4").reshape(rows, -1, _CODE_WORDS // width, width)
        shifts = np.arange(0, _CODE_WORDS, width, dtype=np.uint32)[:, None]
        planes.append(np.bitwise_or.reduce(words << shifts, axis=2).reshape(rows, -1))
        low += width
    return planes


def _pack_stream(stream: Stream, run: AffineRun) -> list[Words]:
    scales = [run.offsets if stream.name == "offset" else run.scales]
    if stream.pairs:
        scales.append(run.offsets)
    columns = run.codes.shape[1]
    parts = [
        _widened(_interleaved([s.units for s in scales if isinstance(s, Scales)]), stream.units, columns)
    ]
    if stream.layout.factor:
        halves = stream.layout.factor_bits < 8
        factors = [s.factors for s in scales if isinstance(s, Scales) and s.factors is not None]
        together = _interleaved(factors)
        parts.append(_widened(_in_nibbles(together) if halves else together, stream.factors, columns))
    return parts


def _in_nibbles(factors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two neighbours in a byte, the first in the low nibble."""
    packed = factors[:, ::2].copy()
    packed[:, : factors.shape[1] // 2] |= factors[:, 1::2] << np.uint8(4)
    return packed


def _interleaved(arrays: list[Any]) -> NDArray[Any]:
    """(rows, columns) each -> (rows, columns * arrays): the first of each, then the second of each."""
    return np.stack(arrays, axis=2).reshape(len(arrays[0]), -1)


def _widened(array: NDArray[Any], part: Part, columns: int) -> Words:
    """An array's rows as words of a part, with zeros at their ends."""
    numbers = part.row_words(columns) * 4 // array.dtype.itemsize
    if array.shape[1] != numbers:
        whole = np.zeros((len(array), numbers), array.dtype)
        whole[:, : array.shape[1]] = array
        array = whole
    return np.ascontiguousarray(array).view("<u4")
