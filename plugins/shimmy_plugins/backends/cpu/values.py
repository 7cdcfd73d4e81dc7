"""Values and addresses of the vector language kernels are written in: operators that emit LLVM IR.

Everything is portable: vectors have 16 lanes whatever the machine (LLVM splits them where registers
are narrower), fused multiply-add is the only contraction, and nothing is reassociated, so a kernel
computes the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from llvmlite import ir

if TYPE_CHECKING:
    from shimmy_plugins.backends.cpu.emitter import Emitter

LANES = 16

#: llvmlite has no type annotations.
Type: TypeAlias = Any

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
PTR = ir.PointerType()
VOID = ir.VoidType()
SIZES: dict[Type, int] = {I8: 1, I16: 2, F16: 2, I32: 4, F32: 4, I64: 8}


def vector(element: Type, lanes: int = LANES) -> Type:
    return ir.VectorType(element, lanes)


class Value:
    """A number or vector of 16 being computed. Integers are unsigned. Python numbers mix in."""

    __slots__ = ("emitter", "raw")

    def __init__(self, emitter: Emitter, raw: Any) -> None:
        self.emitter = emitter
        self.raw = raw

    @property
    def type(self) -> Type:
        return self.raw.type

    @property
    def element(self) -> Type:
        """Its type, or that of one lane."""
        return getattr(self.type, "element", self.type)

    def __add__(self, other: Operand) -> Value:
        return self._binary("add", "fadd", other)

    def __sub__(self, other: Operand) -> Value:
        return self._binary("sub", "fsub", other)

    def __mul__(self, other: Operand) -> Value:
        return self._binary("mul", "fmul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self._binary("", "fdiv", other)

    def __floordiv__(self, other: Operand) -> Value:
        return self._binary("udiv", "", other)

    def __mod__(self, other: Operand) -> Value:
        return self._binary("urem", "", other)

    def __and__(self, other: Operand) -> Value:
        return self._binary("and_", "", other)

    def __or__(self, other: Operand) -> Value:
        return self._binary("or_", "", other)

    def __xor__(self, other: Operand) -> Value:
        return self._binary("xor", "", other)

    def __lshift__(self, other: Operand) -> Value:
        return self._binary("shl", "", other)

    def __rshift__(self, other: Operand) -> Value:
        return self._binary("lshr", "", other)

    def shift_signed(self, by: int) -> Value:
        """The signed integer divided by 2**by, rounded down."""
        return self._binary("ashr", "", by)

    def __neg__(self) -> Value:
        return Value(self.emitter, self.emitter.builder.fneg(self.raw))

    def __lt__(self, other: Operand) -> Value:
        return self._compare("<", other)

    def equals(self, other: Operand) -> Value:
        return self._compare("==", other)

    def widen(self, element: Type, *, signed: bool = False) -> Value:
        """To a wider integer or float type, lane by lane."""
        if isinstance(element, ir.IntType):
            return self._convert("sext" if signed else "zext", element)
        return self._convert("fpext", element)

    def narrow(self, element: Type) -> Value:
        """The low bits of each integer as a narrower type, or each float rounded to one."""
        narrow = "trunc" if isinstance(element, ir.IntType) else "fptrunc"
        return self._convert(narrow, element)

    def any(self) -> Value:
        """Whether any lane of a mask is true."""
        b = self.emitter.builder
        bits = b.bitcast(self.raw, ir.IntType(self.type.count))
        return Value(self.emitter, b.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)))

    def to_float(self, *, signed: bool = False) -> Value:
        """The integer as a float."""
        return self._convert("sitofp" if signed else "uitofp", F32)

    def to_integer(self) -> Value:
        """The float without its fraction, as an integer of 32 bits."""
        return self._convert("fptosi", I32)

    def bits(self, element: Type) -> Value:
        """The same bits as elements of another type: with narrower ones, a vector has more lanes."""
        target = element
        if isinstance(self.type, ir.VectorType):
            target = vector(element, self.type.count * SIZES[self.element] // SIZES[element])
        return Value(self.emitter, self.emitter.builder.bitcast(self.raw, target))

    def each_field(self, bits: int) -> Value:
        """From a vector of bytes, a vector with a byte for each field of so many bits, the lowest first."""
        lanes = vector(ir.IntType(bits), 8 // bits * self.type.count)
        return Value(self.emitter, self.emitter.builder.bitcast(self.raw, lanes)).widen(I8)

    def lane(self, index: Operand) -> Value:
        """One lane of a vector."""
        e = self.emitter
        return Value(e, e.builder.extract_element(self.raw, e.coerce(index, I64).raw))

    def split(self, lanes: int) -> list[Value]:
        """The vector cut into vectors of so many lanes."""
        return [self._picked(range(i, i + lanes)) for i in range(0, self.type.count, lanes)]

    def joined(self, other: Value) -> Value:
        """The lanes of this vector, then those of another like it."""
        lanes = ir.Constant(vector(I32, 2 * self.type.count), list(range(2 * self.type.count)))
        return Value(self.emitter, self.emitter.builder.shuffle_vector(self.raw, other.raw, lanes))

    def woven(self, other: Value) -> Value:
        """The lanes of this vector and of another like it, in turns."""
        return self.joined(other)._picked([i for pair in range(LANES) for i in (pair, pair + LANES)])

    def unwoven(self) -> tuple[Value, Value]:
        """The lanes at even places, and those at odd ones."""
        return self._picked(range(0, self.type.count, 2)), self._picked(range(1, self.type.count, 2))

    def turned(self, by: int) -> Value:
        """The vector with lane i + by in lane i, around the end."""
        return self._picked([(i + by) % LANES for i in range(LANES)])

    def splat(self, lanes: int = LANES) -> Value:
        """A vector with this number in every lane."""
        e = self.emitter
        undefined = ir.Constant(vector(self.type, lanes), ir.Undefined)
        first = e.builder.insert_element(undefined, self.raw, I32(0))
        zeros = ir.Constant(vector(I32, lanes), [0] * lanes)
        return Value(e, e.builder.shuffle_vector(first, undefined, zeros))

    def _picked(self, lanes: Sequence[int]) -> Value:
        """A vector of these lanes."""
        numbers = ir.Constant(vector(I32, len(lanes)), list(lanes))
        return Value(self.emitter, self.emitter.builder.shuffle_vector(self.raw, self.raw, numbers))

    def _binary(self, integer: str, floating: str, other: Operand) -> Value:
        e = self.emitter
        operation = integer if isinstance(self.element, ir.IntType) else floating
        return Value(e, getattr(e.builder, operation)(self.raw, e.coerce(other, self.type).raw))

    def _compare(self, operator: str, other: Operand) -> Value:
        e = self.emitter
        integer = isinstance(self.element, ir.IntType)
        compare = e.builder.icmp_unsigned if integer else e.builder.fcmp_ordered
        return Value(e, compare(operator, self.raw, e.coerce(other, self.type).raw))

    def _convert(self, conversion: str, element: Type) -> Value:
        target = vector(element, self.type.count) if isinstance(self.type, ir.VectorType) else element
        return Value(self.emitter, getattr(self.emitter.builder, conversion)(self.raw, target))


Operand: TypeAlias = Value | int | float


class Pointer:
    """The address of elements of one type; offsets count elements."""

    __slots__ = ("element", "emitter", "raw")

    def __init__(self, emitter: Emitter, raw: Any, element: Type) -> None:
        self.emitter = emitter
        self.raw = raw
        self.element = element

    def __add__(self, count: Operand) -> Pointer:
        e = self.emitter
        address = e.builder.gep(self.raw, [e.coerce(count, I64).raw], source_etype=self.element)
        return Pointer(e, address, self.element)

    def __getitem__(self, index: Operand) -> Value:
        return self._load(index, self.element)

    def __setitem__(self, index: Operand, value: Value) -> None:
        """Store one element, or a vector from ``index`` on."""
        self.emitter.builder.store(value.raw, (self + index).raw, align=SIZES[self.element])

    def vector(self, index: Operand = 0, lanes: int = LANES) -> Value:
        """The 16 elements from ``index`` on, or as many as told."""
        return self._load(index, vector(self.element, lanes))

    def first(self, count: Operand, index: Operand = 0) -> Value:
        """The ``count`` <= 16 floats from ``index`` on, zeros in the other lanes; no more is read."""
        e = self.emitter
        zeros = e.floats(0.0)
        arguments = [(self + index).raw, I32(SIZES[F32]), e.lanes_below(count).raw, zeros.raw]
        return e.call(f"llvm.masked.load.v{LANES}f32.p0", zeros.type, arguments)

    def put_first(self, count: Operand, value: Value, index: Operand = 0) -> None:
        """Store the ``count`` first lanes of a vector of floats, or all if it has no more."""
        e, lanes = self.emitter, value.type.count
        arguments = [value.raw, (self + index).raw, I32(SIZES[F32]), e.lanes_below(count, lanes).raw]
        e.call(f"llvm.masked.store.v{lanes}f32.p0", VOID, arguments)

    def prefetch(self, index: Operand) -> None:
        """Ask for the cache line of an element that will be read soon."""
        arguments = [(self + index).raw, I32(0), I32(3), I32(1)]
        self.emitter.call("llvm.prefetch.p0", VOID, arguments)

    def cast(self, element: Type) -> Pointer:
        """The same address as elements of another type."""
        return Pointer(self.emitter, self.raw, element)

    def _load(self, index: Operand, type_: Type) -> Value:
        e = self.emitter
        return Value(e, e.builder.load((self + index).raw, typ=type_, align=SIZES[self.element]))


class Variable:
    """A value that changes in a loop; LLVM keeps it in a register."""

    __slots__ = ("_slot", "_type", "emitter")

    def __init__(self, emitter: Emitter, value: Value) -> None:
        self.emitter = emitter
        self._type = value.type
        with emitter.builder.goto_entry_block():
            self._slot = emitter.builder.alloca(self._type)
        self.value = value

    @property
    def value(self) -> Value:
        return Value(self.emitter, self.emitter.builder.load(self._slot, typ=self._type))

    @value.setter
    def value(self, value: Value) -> None:
        self.emitter.builder.store(value.raw, self._slot)
