"""Blocks of a file into run layouts by the GPU: a quant type's own ``unpack``, recorded as steps on words.

See :mod:`shimmy.gguf.quant` for the language in which quant types say it; ``weights/unpack.wgsl`` turns the
steps into WGSL. A word has four bytes next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import BlockParts, BlockScales, UnpackedQuantType
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu, Pipeline, Slice
from shimmy_plugins.backends.wgpu.layouts import BLOCK, WORD, AffineLayout, Part, Stream

#: Bytes of the file on their way at a time.
CHUNK_BYTES = 16 << 20
_WORKGROUP = 64
#: Bytes of a word that hold a 1.
_ONES = 0x01010101


class CannotUnpackError(Exception):
    """The type takes bytes apart in numbers that are not whole words: NumPy has to do it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A word computed from others, of which ``a`` and ``b`` are the numbers, or from the block."""

    kind: str
    a: int = 0
    b: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """The float16, or the exponent of a power, at a byte of a block; ``sign`` is flipped in it."""

    at: int
    bytes: int
    sign: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """What fills a part of a layout: the words of a block, or its units of scales, offsets or both."""

    part: Part
    words: tuple[int, ...] = ()
    """Numbers of steps."""
    units: tuple[Unit, ...] = ()

    @property
    def blocks_per_word(self) -> int:
        """Blocks whose units make a word."""
        return WORD // sum(unit.bytes for unit in self.units)


@dataclass(frozen=True, slots=True)
class Unpacking:
    """How a block becomes words of a layout's parts, in the layout's order."""

    steps: tuple[Step, ...]
    sources: tuple[Source, ...]
    columns: int
    """Of a block."""


class _Recorder:
    """Steps so far; equal ones are one."""

    def __init__(self) -> None:
        self.steps: dict[Step, int] = {}

    def word(self, kind: str, a: int = 0, b: int = 0, number: int = 0) -> int:
        return self.steps.setdefault(Step(kind, a, b, number), len(self.steps))


@dataclass(frozen=True, slots=True)
class _Words:
    """Bytes in words, by the numbers of their steps; the last word may have more than there are."""

    recorder: _Recorder
    words: tuple[int, ...]
    count: int
    """Of bytes."""

    def whole(self) -> tuple[int, ...]:
        """The words, if that is all of them."""
        if self.count % WORD:
            raise CannotUnpackError
        return self.words

    def field(self, first: int, bits: int) -> _Words:
        shifted = self._each(lambda w: self.recorder.word("right", w, number=first)) if first else self
        return shifted._each(lambda w: self.recorder.word("and", w, number=((1 << bits) - 1) * _ONES))

    def spread(self, bits: int) -> _Words:
        # A word of the result is made of so many bits of one of these.
        places = (divmod(first, 8 * WORD) for first in range(0, 8 * self.count, WORD * bits))
        words = (self.recorder.word(f"spread{bits}", self.words[i], number=first) for i, first in places)
        return _Words(self.recorder, tuple(words), self.count * 8 // bits)

    def __or__(self, other: _Words) -> _Words:
        pairs = zip(self.words, other.words, strict=True)
        return _Words(self.recorder, tuple(self.recorder.word("or", a, b) for a, b in pairs), self.count)

    def __xor__(self, other: int) -> _Words:
        return self._each(lambda w: self.recorder.word("xor", w, number=other * _ONES))

    def __lshift__(self, by: int) -> _Words:
        return self._each(lambda w: self.recorder.word("left", w, number=by))

    def pairs(self, other: _Words) -> _Words:
        """The bytes of both, in turn."""
        both = [(a, b, n) for a, b in zip(self.whole(), other.whole(), strict=True) for n in (0, 16)]
        return _Words(self.recorder, tuple(self.recorder.word("pairs", *of) for of in both), 2 * self.count)

    def _each(self, function: Callable[[int], int]) -> _Words:
        return _Words(self.recorder, tuple(function(word) for word in self.words), self.count)


@dataclass(frozen=True, slots=True)
class _RecordedBlock:
    recorder: _Recorder

    def bytes(self, at: int, count: int) -> _Words:
        words = tuple(self.recorder.word("load", number=at + i) for i in range(0, count, WORD))
        return _Words(self.recorder, words, count)

    def half(self, at: int, *, negative: bool = False) -> Unit:
        return Unit(at, 2, 0x8000 if negative else 0)

    def power(self, at: int) -> Unit:
        return Unit(at, 1)

    def join(self, *parts: _Words) -> _Words:
        words = tuple(word for part in parts for word in part.whole())
        return _Words(self.recorder, words, WORD * len(words))


def unpacking(quant: UnpackedQuantType, layout: AffineLayout) -> Unpacking | None:
    """How the GPU takes blocks of this type apart, into this layout; None if only NumPy can."""
    recorder = _Recorder()
    try:
        block = _RecordedBlock(recorder)
        parts = quant.unpack(block).by_group(block)
        sources = _sources(recorder, parts, layout)
    except CannotUnpackError:
        return None
    return Unpacking(tuple(recorder.steps), tuple(sources), parts.codes.count)


def _sources(recorder: _Recorder, parts: BlockParts[_Words, Unit], layout: AffineLayout) -> list[Source]:
    """What fills the layout's parts, in its order."""
    codes = parts.codes ^ layout.code_bias if layout.code_bias else parts.codes
    if codes.count % BLOCK:
        raise CannotUnpackError
    sources = [Source(part, tuple(_plane(recorder, codes, part.words, low))) for part, low in _planes(layout)]
    for stream in layout.streams:
        sources += _scales(stream, parts.scales, parts.offsets)
    return sources


def _planes(layout: AffineLayout) -> list[tuple[Part, int]]:
    """The planes, with the lowest bit of the codes in each."""
    lows = [sum(layout.planes[:i]) for i in range(len(layout.planes))]
    return list(zip(layout.parts, lows, strict=False))


def _plane(recorder: _Recorder, codes: _Words, width: int, low: int) -> list[int]:
    """The words of a plane for the words of codes; see :class:`AffineLayout`."""
    fields = codes.field(low, width).words
    per_block = BLOCK // WORD
    plane = []
    for block in range(0, len(fields), per_block):
        for first in range(width):
            word = fields[block + first]
            for i in range(first + width, per_block, width):
                word = recorder.word("or", word, recorder.word("left", fields[block + i], number=i - first))
            plane.append(word)
    return plane


def _scales(
    stream: Stream, scales: BlockScales[_Words, Unit], offsets: BlockScales[_Words, Unit] | int
) -> list[Source]:
    both = [s for s in (scales, offsets) if isinstance(s, BlockScales)]
    of = {"scale": both[:1], "offset": both[1:], "both": both}[stream.name]
    sources = [Source(stream.units, units=tuple(one.unit for one in of))]
    factors = [one.factors for one in of if one.factors is not None]
    if factors:
        sources.append(Source(stream.factors, _factors(factors, stream.layout.factor_bits).whole()))
    return sources


def _factors(factors: list[_Words], bits: int) -> _Words:
    """Those of a stream as it stores them."""
    first, *second = factors
    if bits == 2 * WORD:
        return first.pairs(*second) if second else first
    if not second:
        raise CannotUnpackError  # two neighbours would share a byte
    return first | second[0] << bits


class Unpacker:
    """Lets a GPU take the blocks of a file apart."""

    def __init__(self, gpu: Gpu, composer: Composer) -> None:
        self._gpu = gpu
        self._composer = composer

    def fill(
        self,
        how: Unpacking,
        targets: Sequence[Slice],
        first: int,
        rows: int,
        read: Callable[[slice], NDArray[np.uint8]],
    ) -> None:
        """Fill so many rows of a matrix, from ``first`` on; nothing is waited for.

        ``targets`` are its parts. ``read`` gives the blocks of some of the rows, (blocks, bytes of a block).
        """
        gpu = self._gpu
        row_blocks, block_bytes = read(slice(0, 1)).shape
        step = max(CHUNK_BYTES // (row_blocks * block_bytes), 1)
        # The last block is read as if there were a next one.
        size = (min(step, rows) * row_blocks + 1) * block_bytes + 2 * WORD
        staging, place = gpu.buffer(size, "blocks on their way"), gpu.buffer(3 * WORD, "their place")
        pipeline = self._pipeline(how, block_bytes)
        group = gpu.bind(pipeline, [staging.whole(), place.whole(), *targets])
        for start in range(0, rows, step):
            blocks = read(slice(start, min(start + step, rows)))
            gpu.upload(staging, blocks)
            gpu.upload(place, np.array([len(blocks) // row_blocks, row_blocks, first + start], np.uint32))
            gpu.submit([gpu.call(pipeline, group, -(-len(blocks) // _WORKGROUP))])

    def _pipeline(self, how: Unpacking, block_bytes: int) -> Pipeline:
        source = self._composer.compose(
            "shimmy/weights/unpack.wgsl", unpacking=how, block_bytes=block_bytes, workgroup=_WORKGROUP
        )
        return self._gpu.pipeline(source, f"unpack blocks of {block_bytes} bytes")
