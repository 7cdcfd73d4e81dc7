"""Writes functions in a small vector language over llvmlite: constants, control, arithmetic of ``values``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from llvmlite import ir

from shimmy_plugins.backends.cpu.values import F32, I32, I64, LANES, Operand, Type, Value, Variable, vector

#: Contexts in which the two branches of a condition are emitted.
Branches: TypeAlias = AbstractContextManager[
    tuple[AbstractContextManager[None], AbstractContextManager[None]]
]


class Emitter:
    """Writes one function, instruction after instruction."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))

    # -- constants ----------------------------------------------------------------------------

    def coerce(self, operand: Operand, type_: Type) -> Value:
        """A Python number as a constant of ``type_``; values pass through."""
        if isinstance(operand, Value):
            return operand
        if isinstance(type_, ir.VectorType):
            return Value(self, ir.Constant(type_, [operand] * type_.count))
        return Value(self, ir.Constant(type_, operand))

    def ints(self, number: int) -> Value:
        """A vector of 32-bit integers with ``number`` in every lane."""
        return self.coerce(number, vector(I32))

    def lanes_below(self, count: Operand, lanes: int = LANES) -> Value:
        """A mask: which lanes have an index below ``count``."""
        limit = self.coerce(count, I64).splat(lanes)
        return Value(self, ir.Constant(vector(I64, lanes), list(range(lanes)))) < limit

    def int(self, number: int) -> Value:
        return self.coerce(number, I64)

    def floats(self, number: float) -> Value:
        """A vector with ``number`` in every lane."""
        return self.coerce(float(number), vector(F32))

    def lane_numbers(self) -> Value:
        """0 to 15, as 32-bit integers."""
        return Value(self, ir.Constant(vector(I32), list(range(LANES))))

    def collect(self, numbers: Sequence[Value]) -> Value:
        """A vector of these numbers."""
        raw = ir.Constant(vector(numbers[0].type, len(numbers)), ir.Undefined)
        for i, number in enumerate(numbers):
            raw = self.builder.insert_element(raw, number.raw, I32(i))
        return Value(self, raw)

    # -- control ------------------------------------------------------------------------------

    def variable(self, value: Value) -> Variable:
        return Variable(self, value)

    @contextmanager
    def loop(self, begin: Operand, end: Operand, step: Operand = 1) -> Iterator[Value]:
        """for i in range(begin, end, step)"""
        index = self.variable(self.coerce(begin, I64))
        with self.loop_while(lambda: index.value < end):
            i = index.value
            yield i
            index.value = i + step

    @contextmanager
    def loop_while(self, condition: Any) -> Iterator[None]:
        """while condition(): the condition is a function, emitted where it is tested."""
        b = self.builder
        test, body, done = (self.function.append_basic_block(n) for n in ("test", "body", "done"))
        b.branch(test)
        b.position_at_end(test)
        b.cbranch(condition().raw, body, done)
        b.position_at_end(body)
        yield
        b.branch(test)
        b.position_at_end(done)

    def when(self, condition: Value) -> AbstractContextManager[None]:
        """with when(condition): …"""
        return self.builder.if_then(condition.raw)  # type: ignore[no-any-return]

    def when_else(self, condition: Value) -> Branches:
        """with when_else(condition) as (yes, no): with yes: …; with no: …"""
        return self.builder.if_else(condition.raw)  # type: ignore[no-any-return]

    # -- arithmetic ---------------------------------------------------------------------------

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self.intrinsic("fma", a, b, c)

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        return Value(self, self.builder.select(condition.raw, yes.raw, no.raw))

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger, lane by lane."""
        return self.select(a < b, b, a)

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller, lane by lane."""
        return self.select(b < a, b, a)

    def sqrt(self, x: Value) -> Value:
        return self.intrinsic("sqrt", x)

    def intrinsic(self, name: str, *operands: Value) -> Value:
        """An LLVM intrinsic on floats or vectors of floats."""
        type_ = operands[0].type
        suffix = f"v{type_.count}f32" if isinstance(type_, ir.VectorType) else "f32"
        return self.call(f"llvm.{name}.{suffix}", type_, [o.raw for o in operands])

    def call(self, name: str, result: Type, arguments: list[Any]) -> Value:
        """Call a function by name, declaring it at first use."""
        module = self.function.module
        if name not in module.globals:
            ir.Function(module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return Value(self, self.builder.call(module.globals[name], arguments))
