"""The loops that measure ceilings, as LLVM IR: reading, F32 multiply-adds, dot products of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Independent sums and products, enough to keep every unit of a core busy.
CHAINS = 12


@dataclass(frozen=True, slots=True)
class Vectors:
    """A processor's widest vectors."""

    floats: int
    """Floats in one."""
    dot: BytesDot | None
    """Its best instruction for products of bytes; None where none is known."""

    @property
    def bytes(self) -> int:
        """Products of bytes that the instruction adds up; 0 without one."""
        return self.dot.products if self.dot else 0


@dataclass(frozen=True, slots=True)
class BytesDot:
    """An instruction for dot products of bytes."""

    function: str
    """LLVM's name for it."""
    products: int
    vector: str
    """Type of its sums."""
    parameters: tuple[str, ...]
    step: Callable[[BytesDot, int], list[str]]
    """The lines that turn ``%old{c}`` into ``%new{c}``."""


def vectors_of(features: str) -> Vectors:
    """Of a processor with these features, as LLVM lists them ("+avx2,-avx512f")."""
    has = set(features.split(","))
    floats = 16 if "+avx512f" in has else 8 if "+avx" in has else 4
    return Vectors(floats, next((dot for feature, dot in _DOTS.items() if f"+{feature}" in has), None))


def source(vectors: Vectors) -> str:
    """IR of ``read(address, bytes)``, ``multiply(rounds)`` and, with a dot, ``multiply_bytes(rounds)``."""
    lanes, dot = vectors.floats, vectors.dot
    floats, ints = f"<{lanes} x float>", f"<{lanes} x i32>"
    parts = [
        f"declare {floats} @llvm.fma.v{lanes}f32({floats}, {floats}, {floats})",
        _loop("read", "ptr %data, i64 %size", ints, CHAINS * lanes * 4, _read_step(lanes)),
        _loop("multiply", "i64 %size", floats, 1, _multiply_step(lanes)),
        # Without it LLVM may cut the widest vectors in two on processors that ran hot with them.
        'attributes #0 = { "min-legal-vector-width"="512" }',
    ]
    reduced = {lanes}
    if dot:
        steps = [line for c in range(CHAINS) for line in dot.step(dot, c)]
        parts.append(f"declare {dot.vector} @{dot.function}({', '.join(dot.parameters)})")
        parts.append(_loop("multiply_bytes", "i64 %size", dot.vector, 1, steps))
        reduced.add(_words(dot.vector))
    parts += [f"declare i32 @llvm.vector.reduce.xor.v{n}i32(<{n} x i32>)" for n in sorted(reduced)]
    return "\n".join(parts)


def _words(vector: str) -> int:
    """32-bit words in a vector type."""
    count, _, element = vector.strip("<>").split()
    return int(count) * (16 if element == "i16" else 32) // 32


def _loop(name: str, parameters: str, vector: str, step: int, body: list[str]) -> str:
    """A loop over ``%i`` below ``%size - step`` that turns each ``%old{c}`` into ``%new{c}``."""
    chains = range(CHAINS)
    lanes = _words(vector)
    whole = f"<{lanes} x i32>"
    joined = [f"%x0 = bitcast {vector} %new0 to {whole}"]
    for c in chains[1:]:
        joined.append(f"%b{c} = bitcast {vector} %new{c} to {whole}")
        joined.append(f"%x{c} = xor {whole} %x{c - 1}, %b{c}")
    return "\n".join(
        [
            f"define i32 @{name}({parameters}) #0 {{",
            "entry: ",
            f"%last = sub i64 %size, {2 * step - 1}",
            "br label %loop",
            "loop:",
            "%i = phi i64 [0, %entry], [%next, %loop]",
            *(f"%old{c} = phi {vector} [zeroinitializer, %entry], [%new{c}, %loop]" for c in chains),
            *body,
            f"%next = add i64 %i, {step}",
            "%more = icmp slt i64 %i, %last",
            "br i1 %more, label %loop, label %done",
            "done:",
            *joined,
            f"%result = call i32 @llvm.vector.reduce.xor.v{lanes}i32({whole} %x{CHAINS - 1})",
            "ret i32 %result",
            "}",
        ]
    )


def _read_step(lanes: int) -> list[str]:
    vector = f"<{lanes} x i32>"
    lines = []
    for c in range(CHAINS):
        lines.append(f"%o{c} = add i64 %i, {c * lanes * 4}")
        lines.append(f"%p{c} = getelementptr i8, ptr %data, i64 %o{c}")
        lines.append(f"%v{c} = load {vector}, ptr %p{c}, align 4")
        lines.append(f"%new{c} = xor {vector} %old{c}, %v{c}")
    return lines


def _multiply_step(lanes: int) -> list[str]:
    vector = f"<{lanes} x float>"
    half = f"{vector} <" + ", ".join(["float 0.5"] * lanes) + ">"
    return [
        f"%new{c} = call {vector} @llvm.fma.v{lanes}f32({vector} %old{c}, {half}, {half})"
        for c in range(CHAINS)
    ]


def _add_dot(dot: BytesDot, chain: int) -> list[str]:
    """Instructions that multiply and add to their sums. What is multiplied makes no difference."""
    _, *factors = dot.parameters
    given = ", ".join(f"{kind} {_ones(kind)}" for kind in factors)
    return [f"%new{chain} = call {dot.vector} @{dot.function}({dot.vector} %old{chain}, {given})"]


def _dot_then_add(dot: BytesDot, chain: int) -> list[str]:
    """Instructions that only multiply: of the sums themselves, or it would be done once for all rounds."""
    first, second = dot.parameters
    return [
        f"%f{chain} = bitcast {dot.vector} %old{chain} to {first}",
        f"%d{chain} = call {dot.vector} @{dot.function}({first} %f{chain}, {second} {_ones(second)})",
        f"%new{chain} = add {dot.vector} %old{chain}, %d{chain}",
    ]


def _ones(vector: str) -> str:
    count, _, element = vector.strip("<>").split()
    return "<" + ", ".join([f"{element} 1"] * int(count)) + ">"


_WORDS_512, _WORDS_256, _WORDS_128 = "<16 x i32>", "<8 x i32>", "<4 x i32>"
#: Best first, by the feature that brings it.
_DOTS = {
    "avx512vnni": BytesDot("llvm.x86.avx512.vpdpbusd.512", 64, _WORDS_512, (_WORDS_512,) * 3, _add_dot),
    "avxvnni": BytesDot("llvm.x86.avx512.vpdpbusd.256", 32, _WORDS_256, (_WORDS_256,) * 3, _add_dot),
    "avx2": BytesDot("llvm.x86.avx2.pmadd.ub.sw", 32, "<16 x i16>", ("<32 x i8>",) * 2, _dot_then_add),
    "dotprod": BytesDot(
        "llvm.aarch64.neon.sdot.v4i32.v16i8",
        16,
        _WORDS_128,
        (_WORDS_128, "<16 x i8>", "<16 x i8>"),
        _add_dot,
    ),
}
