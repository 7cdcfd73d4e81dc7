"""A kernel: a native function ``void name(fields, thread, threads)`` that does one thread's share of an op.

``fields`` is the address of an argument block: 64-bit words, one per field, that hold sizes, float
bits or addresses. What changes from step to step (the number of rows) is behind an address.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from shimmy_plugins.backends.cpu.emitter import F32, I32, I64, PTR, VOID, Emitter, Pointer, Type, Value

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

    def __init__(self, emitter: Emitter, thread: Value, threads: Value) -> None:
        self._emitter = emitter
        self.thread = thread
        self.threads = threads

    def share(self, total: Value) -> tuple[Value, Value]:
        """This thread's (begin, end) of ``total`` items, all shares equal within one."""
        return total * self.thread // self.threads, total * (self.thread + 1) // self.threads


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
        function = ir.Function(module, ir.FunctionType(VOID, [PTR, I64, I64]), self.name)
        function.attributes.add("nounwind")
        emitter = Emitter(function)
        block, thread, threads = function.args
        fields = Fields(emitter, Pointer(emitter, block, I64), self.fields)
        self.body(emitter, fields, Work(emitter, Value(emitter, thread), Value(emitter, threads)))
        emitter.builder.ret_void()
        return str(module)

    def block(self, values: Mapping[str, FieldValue]) -> NDArray[np.int64]:
        """An argument block; the arrays whose addresses it holds must outlive it."""
        if values.keys() != set(self.fields):
            raise TypeError(f"kernel {self.name} takes {self.fields}, not {tuple(values)}.")
        return np.array([_word(values[name]) for name in self.fields], np.int64)


def address(emitter: Emitter, word: Value, element: Type) -> Pointer:
    """A 64-bit word as the address of elements of a type."""
    return Pointer(emitter, emitter.builder.inttoptr(word.raw, PTR), element)


def _word(value: FieldValue) -> int:
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<f", value), "little")
    return value
