"""Codes to the numbers of a codebook: a table of up to 16 bytes, looked up in many bytes at once.

Codes are bytes of 32-bit lanes. Processors have an instruction that takes bytes out of a table of 16;
without it a number is chosen bit by bit of the code, which works everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernels.dot import by_parts
from shimmy_plugins.backends.cpu.values import I8, Value, vector

#: Bytes of the table that such instructions read.
_TABLE = 16
#: The lowest bit of each byte, and a number in each byte.
_ONES = 0x01010101

#: look_up(e, codes, codebook): the number of each byte of the codes.
Lookup: TypeAlias = Callable[[Emitter, Value, Sequence[int]], Value]


def _shuffle(name: str, width: int) -> Lookup:
    """By an instruction on so many bytes, which takes them from the table in the same 16 of its bytes."""

    def look_up(e: Emitter, codes: Value, codebook: Sequence[int]) -> Value:
        indices = codes.bits(I8)
        table = [*codebook, *[0] * (_TABLE - len(codebook))] * (indices.type.count // _TABLE)
        tables = Value(e, ir.Constant(indices.type, table))
        return by_parts(e, name, vector(I8, width), tables, indices).bits(codes.element)

    return look_up


def _choose(e: Emitter, codes: Value, codebook: Sequence[int]) -> Value:
    """Of two neighbours in the table one, by the codes' lowest bits; of those left one, by the next bits."""
    numbers = [e.coerce(number * _ONES, codes.type) for number in codebook]
    bit = 0
    while len(numbers) > 1:
        chosen = (codes >> bit & _ONES) * 0xFF
        numbers = [a ^ ((a ^ b) & chosen) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
        bit += 1
    return numbers[0]


#: By the names that ``jit.Target.dot`` gives.
LOOKUPS: dict[str, Lookup] = {
    "vnni512": _shuffle("llvm.x86.avx512.pshuf.b.512", 64),
    "vnni256": _shuffle("llvm.x86.avx2.pshuf.b", 32),
    "avx2": _shuffle("llvm.x86.avx2.pshuf.b", 32),
    "sdot": _shuffle("llvm.aarch64.neon.tbl1.v16i8", 16),
    "portable": _choose,
}
