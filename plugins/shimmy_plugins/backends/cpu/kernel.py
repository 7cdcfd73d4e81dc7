"""A kernel: a native function ``void name(fields, thread, threads, claimed)``, one thread's share of an op.

``fields`` is the address of an argument block: 64-bit words, one per field, that hold sizes, float
bits or addresses. What changes from step to step (the number of rows) is behind an address.
``claimed`` is the address of a number, 0 before the call, by which threads may claim work.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.values import F32, I32, I64, PTR, VOID, Pointer, Type, Value

#: What a field is filled with: a size, a float, or an array (its address).
FieldValue: TypeAlias = "int | float | NDArray[np.generic]"


class Fields:
    """The argument block inside a kernel. Fields are read once, at its start."""

    def __init__(self, emitter: Emitter, block: Pointer, names: tuple[str, ...]) -> None:
        self._emitter = emitter
        self._words = {name: block[i] for i, name in enumerate(names)}

    def size(self, name: str) -> Value:
        """An integer field."""
        return self._words[name]

    def float(self, name: str) -> Value:
        """A float field."""
        e = self._emitter
        return Value(e, e.builder.trunc(self._words[name].raw, I32)).bits(F32)

    def pointer(self, name: str, element: Type = F32) -> Pointer:
        """A field that holds the address of elements of a type."""
        return address(self._emitter, self._words[name], element)

    def count(self, name: str) -> Value:
        """The number at the address in this field: one that differs from step to step."""
        return self.pointer(name, I64)[0]


class Work:
    """How threads divide a kernel's work."""

    def __init__(self, emitter: Emitter, thread: Value, threads: Value, claimed: Pointer) -> None:
        self._emitter = emitter
        self._claimed = claimed
        self.thread = thread
        self.threads = threads

    @contextmanager
    def claim(self, total: Value) -> Iterator[Value]:
        """Each item of ``total`` goes to one thread: ``with work.claim(n) as item: …``

        Items wait for no particular thread: one that is held up, because another program has its
        core, leaves more to the others. Three quarters go out in equal shares, since claiming
        costs; the rest in small ones, so that all finish together. A call can claim once.
        """
        e = self._emitter
        share = (total * 3 + (self.threads * 4 - 1)) // (self.threads * 4)
        rest = total - e.minimum(share * self.threads, total)
        small = rest // (self.threads * 4) + 1
        number = e.variable(self._next())

        def begin_of(number: Value) -> Value:
            """Where the claim of this number begins: one of the equal shares, or a small one."""
            is_large = number < self.threads
            behind = share * self.threads + (number - self.threads) * small
            return e.select(is_large, share * number, behind)

        with e.loop_while(lambda: begin_of(number.value) < total):
            end = e.minimum(begin_of(number.value + 1), total)
            with e.loop(begin_of(number.value), end) as item:
                yield item
            number.value = self._next()

    def _next(self) -> Value:
        """The next number nobody has."""
        e = self._emitter
        return Value(e, e.builder.atomic_rmw("add", self._claimed.raw, I64(1), "monotonic"))


Body: TypeAlias = Callable[[Emitter, Fields, Work], None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """How to emit a kernel; ``name`` says all parameters of its code, so it is unique."""

    name: str
    fields: tuple[str, ...]
    body: Body

    def ir(self) -> str:
        """The LLVM IR of a module with this function."""
        module = ir.Module(self.name)
        function = ir.Function(module, ir.FunctionType(VOID, [PTR, I64, I64, PTR]), self.name)
        function.attributes.add("nounwind")
        emitter = Emitter(function)
        block, *work = function.args
        fields = Fields(emitter, Pointer(emitter, block, I64), self.fields)
        thread, threads = (Value(emitter, argument) for argument in work[:2])
        self.body(emitter, fields, Work(emitter, thread, threads, Pointer(emitter, work[2], I64)))
        emitter.builder.ret_void()
        return str(module)

    def block(self, values: Mapping[str, FieldValue]) -> NDArray[np.int64]:
        """An argument block; the arrays whose addresses it holds must outlive it."""
        if values.keys() != set(self.fields):
            raise TypeError(f"kernel {self.name} takes {self.fields}, not {tuple(values)}.")
        return np.array([_word(values[name]) for name in self.fields], np.int64)


#: The type of every kernel.
_Function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def call_alone(kernel: Kernel, code: int, values: Mapping[str, FieldValue]) -> None:
    """Call the kernel at address ``code`` on the calling thread, which does all the work.

    Python's lock is released meanwhile.
    """
    block, claimed = kernel.block(values), np.zeros(1, np.int64)
    _Function(code)(block.ctypes.data, 0, 1, claimed.ctypes.data)


def address(emitter: Emitter, word: Value, element: Type) -> Pointer:
    """A 64-bit word as the address of elements of a type."""
    return Pointer(emitter, emitter.builder.inttoptr(word.raw, PTR), element)


def _word(value: FieldValue) -> int:
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<f", value), "little")
    return value
