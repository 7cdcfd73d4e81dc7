"""Blocks of a file into the arrays of a run, as native code: a quant type's own ``unpack``, emitted.

See :mod:`shimmy.gguf.quant` for the language in which quant types say it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, BlockScales, Scales, UnpackedQuantType
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work, call_alone
from shimmy_plugins.backends.cpu.values import I8, I16, LANES, Pointer, Value

_FIELDS = (
    "rows", "row_blocks", "block_bytes", "blocks", "codes", "codes_stride",
    "scale_units", "scale_factors", "offset_units", "offset_factors",
)  # fmt: skip
#: Rows of codes begin in different sets of the processor's cache: packing reads 16 of them at once.
_PADDING = 64


@dataclass(frozen=True, slots=True)
class _NativeBytes:
    """Bytes in vectors of 16, or all of them where they are fewer."""

    vectors: tuple[Value, ...]

    def field(self, first: int, bits: int) -> _NativeBytes:
        return self._each(lambda v: v >> first & (1 << bits) - 1)

    def spread(self, bits: int) -> _NativeBytes:
        wide = [v.each_field(bits) for v in self.vectors]
        return _NativeBytes(tuple(part for v in wide for part in v.split(min(LANES, v.type.count))))

    def __or__(self, other: _NativeBytes) -> _NativeBytes:
        return _NativeBytes(tuple(a | b for a, b in zip(self.vectors, other.vectors, strict=True)))

    def __xor__(self, other: int) -> _NativeBytes:
        return self._each(lambda v: v ^ other)

    def __lshift__(self, by: int) -> _NativeBytes:
        return self._each(lambda v: v << by)

    @property
    def count(self) -> int:
        return sum(v.type.count for v in self.vectors)

    def store(self, at: Pointer) -> None:
        """Write the bytes from ``at`` on."""
        done = 0
        for v in self.vectors:
            at[done] = v
            done += v.type.count

    def _each(self, function: Callable[[Value], Value]) -> _NativeBytes:
        return _NativeBytes(tuple(function(v) for v in self.vectors))


@dataclass(frozen=True, slots=True)
class _NativeBlock:
    """The block at an address; a half float is its bits, a power its exponent."""

    at: Pointer

    def bytes(self, at: int, count: int) -> _NativeBytes:
        starts = range(at, at + count, LANES)
        return _NativeBytes(tuple(self.at.vector(i, min(LANES, at + count - i)) for i in starts))

    def half(self, at: int, *, negative: bool = False) -> Value:
        # Two bytes, since blocks may have odd sizes.
        bits = self.at.vector(at, 2).bits(I16).lane(0)
        return bits ^ 0x8000 if negative else bits

    def power(self, at: int) -> Value:
        return self.at[at]

    def join(self, *parts: _NativeBytes) -> _NativeBytes:
        vectors: list[Value] = []
        for v in (v for part in parts for v in part.vectors):
            # The same bytes are always in the same vectors, whatever they were joined from.
            while vectors and vectors[-1].type.count == v.type.count < LANES:
                v = vectors.pop().joined(v)
            vectors.append(v)
        return _NativeBytes(tuple(vectors))


class Unpacker:
    """Native code for a quant type; ``form`` is any run of the tensor it is for."""

    def __init__(self, quant: UnpackedQuantType) -> None:
        def body(e: Emitter, f: Fields, work: Work) -> None:
            del work  # whoever calls it divides the rows
            row_blocks, size = f.size("row_blocks"), f.size("block_bytes")
            with e.loop(0, f.size("rows")) as row, e.loop(0, row_blocks) as b:
                block = row * row_blocks + b
                native = _NativeBlock(f.pointer("blocks", I8) + block * size)
                parts = quant.unpack(native).by_group(native)
                column = row * f.size("codes_stride") + b * parts.codes.count
                parts.codes.store(f.pointer("codes", I8) + column)
                for name, scales in (("scale", parts.scales), ("offset", parts.offsets)):
                    if isinstance(scales, BlockScales):
                        f.pointer(f"{name}_units", scales.unit.type)[block] = scales.unit
                        if scales.factors is not None:
                            at = block * scales.factors.count
                            scales.factors.store(f.pointer(f"{name}_factors", I8) + at)

        nameless = Kernel("unpack", _FIELDS, body)
        # Its code comes from a plugin, so only the code itself can name it.
        digest = hashlib.sha256(nameless.ir().encode()).hexdigest()[:16]
        self.kernel = replace(nameless, name=f"unpack_{digest}")

    def run(self, code: int, blocks: NDArray[np.uint8], form: AffineRun, rows: int) -> AffineRun:
        """What ``to_run`` gives; ``form`` is that of any other rows, ``code`` the kernel's address."""
        columns = form.codes.shape[1]
        codes = np.empty((rows, columns + _PADDING), np.uint8)
        scales, offsets = _empty(form.scales, rows), form.offsets
        offsets = offsets if isinstance(offsets, int) else _empty(offsets, rows)
        arrays: dict[str, NDArray[np.generic] | int] = dict.fromkeys(_FIELDS[6:], 0)
        for name, part in (("scale", scales), ("offset", offsets)):
            if isinstance(part, Scales):
                arrays[f"{name}_units"] = part.units
                arrays[f"{name}_factors"] = 0 if part.factors is None else part.factors
        sizes = {"rows": rows, "row_blocks": len(blocks) // rows, "block_bytes": blocks.shape[1]}
        strides = {"codes_stride": codes.strides[0]}
        call_alone(self.kernel, code, {**sizes, **strides, **arrays, "blocks": blocks, "codes": codes})
        return replace(form, codes=codes[:, :columns], scales=scales, offsets=offsets)


def _empty(form: Scales, rows: int) -> Scales:
    """Room for the scales of some rows."""
    units, factors = form.units[:1].repeat(rows, axis=0), form.factors
    return Scales(units, None if factors is None else factors[:1].repeat(rows, axis=0), form.factor_bits)
