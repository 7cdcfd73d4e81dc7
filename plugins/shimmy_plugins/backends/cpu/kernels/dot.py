"""Dot products of bytes, by the instructions processors have for it. All are exact, so all agree.

A vector of 16 lanes, or 8, holds four columns of as many rows: unsigned codes, each row with its own,
or signed activations, the same in all rows. A dot product is, row by row, the sum of code * activation
over the columns of a list of such vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TypeAlias

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.values import I8, I16, I32, SIZES, Type, Value, vector

#: The low nibbles of four bytes.
_NIBBLES = 0x0F0F0F0F
#: What fits 16 bits with a sign, and the largest magnitude of an activation.
_LARGEST_SUM, _LARGEST_X = 2**15 - 1, 127

#: dot(e, start, codes, x, bits): start + sum of code * x, in lanes of 32 bits.
Dot: TypeAlias = Callable[[Emitter, Value, Sequence[Value], Sequence[Value], int], Value]


def _vnni512(e: Emitter, start: Value, codes: Sequence[Value], x: Sequence[Value], bits: int) -> Value:
    """AVX-512 VNNI: one instruction."""
    del bits
    for c, a in zip(codes, x, strict=True):
        start = e.call("llvm.x86.avx512.vpdpbusd.512", vector(I32), [start.raw, c.raw, a.raw])
    return start


def _vnni256(e: Emitter, start: Value, codes: Sequence[Value], x: Sequence[Value], bits: int) -> Value:
    """AVX-VNNI: two of half the width."""
    del bits
    for c, a in zip(codes, x, strict=True):
        start = by_parts(e, "llvm.x86.avx512.vpdpbusd.256", vector(I32, 8), start, c, a)
    return start


def _sdot(e: Emitter, start: Value, codes: Sequence[Value], x: Sequence[Value], bits: int) -> Value:
    """NEON: signed bytes only, so codes of 8 bits are taken as two of 4."""
    if bits == 8:
        high = _sdot(e, e.coerce(0, start.type), [c >> 4 & _NIBBLES for c in codes], x, 4)
        return _sdot(e, start + (high << 4), [c & _NIBBLES for c in codes], x, 4)
    for c, a in zip(codes, x, strict=True):
        c, a = c.bits(I8), a.bits(I8)
        start = by_parts(e, "llvm.aarch64.neon.sdot.v4i32.v16i8", vector(I32, 4), start, c, a)
    return start


def _in_pairs(
    multiply: Callable[[Emitter, Value, Value], Value], join: Callable[[Emitter, Value], Value]
) -> Dot:
    """Without an instruction for it: products of columns in pairs are added up in 16 bits.

    A pair of codes of 4 bits makes at most 2 * 15 * 127 = 3,810, so eight of them fit: a strip of 32
    columns; of 5 bits four fit, of 6 bits two. Codes of 8 bits are taken as two of 4.
    """

    def dot(e: Emitter, start: Value, codes: Sequence[Value], x: Sequence[Value], bits: int) -> Value:
        if bits == 8:
            high = dot(e, e.coerce(0, start.type), [c >> 4 & _NIBBLES for c in codes], x, 4)
            return dot(e, start + (high << 4), [c & _NIBBLES for c in codes], x, 4)
        pairs = [multiply(e, c, a) for c, a in zip(codes, x, strict=True)]
        most = _LARGEST_SUM // (2 * (2**bits - 1) * _LARGEST_X)
        return start + _sum(join(e, _sum(pairs[i : i + most])) for i in range(0, len(pairs), most))

    return dot


def _multiply_avx2(e: Emitter, codes: Value, x: Value) -> Value:
    return by_parts(e, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), codes.bits(I8), x.bits(I8))


def _join_avx2(e: Emitter, pairs: Value) -> Value:
    ones = e.coerce(1, pairs.type)
    return by_parts(e, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), pairs, ones)


def _multiply_portable(e: Emitter, codes: Value, x: Value) -> Value:
    """Even and odd bytes of 16-bit lanes apart; those of x with their sign."""
    del e
    c, a = codes.bits(I16), x.bits(I16)
    return (c & 0xFF) * (a << 8).shift_signed(8) + (c >> 8) * a.shift_signed(8)


def _join_portable(e: Emitter, pairs: Value) -> Value:
    del e
    both = pairs.bits(I32)
    return (both << 16).shift_signed(16) + both.shift_signed(16)


def by_parts(e: Emitter, name: str, result: Type, *operands: Value) -> Value:
    """An instruction on vectors that may be narrower than the operands: part by part."""
    whole = operands[0].type
    count = whole.count * SIZES[whole.element] // (result.count * SIZES[result.element])
    parts = zip(*(o.split(o.type.count // count) for o in operands), strict=True)
    results = [e.call(name, result, [part.raw for part in each]) for each in parts]
    while len(results) > 1:
        results = [a.joined(b) for a, b in zip(results[::2], results[1::2], strict=True)]
    return results[0]


def _sum(values: Iterable[Value]) -> Value:
    return reduce(lambda a, b: a + b, values)


#: By the names that ``jit.Target.dot`` gives.
DOTS: dict[str, Dot] = {
    "vnni512": _vnni512,
    "vnni256": _vnni256,
    "avx2": _in_pairs(_multiply_avx2, _join_avx2),
    "sdot": _sdot,
    "portable": _in_pairs(_multiply_portable, _join_portable),
}
