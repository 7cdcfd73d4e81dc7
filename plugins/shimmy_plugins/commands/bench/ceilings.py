"""What this machine can do at most: bytes read from memory, F32 and int8 operations per second.

Each is measured by small native loops on as many threads as the engine uses, with the instructions
that it may use. ctypes lets go of Python's lock while a loop runs.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from shimmy_plugins.backends.cpu.jit import Target
from shimmy_plugins.commands.bench.ceiling_loops import CHAINS, source, vectors_of

#: Read in one go; far larger than caches are.
BUFFER_BYTES = 256 << 20
_ROUNDS = 2_000_000


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best of several tries."""

    bytes_per_second: float
    flops_per_second: float
    """Of F32 multiplications and additions."""
    int8_ops_per_second: float | None
    """Of multiplications and additions of bytes; None where no instruction is known for them."""

    def operations_per_second(self, precision: str) -> float:
        """The ceiling of an engine that computes in ``precision``."""
        if precision == "int8" and self.int8_ops_per_second is not None:
            return self.int8_ops_per_second
        return self.flops_per_second


class CeilingProbe:
    """Measures a little at a time, so that it can be asked between other measurements."""

    def __init__(self, threads: int, instructions: str = "auto") -> None:
        self._threads = threads
        target = Target.host().at_most(instructions)
        self._vectors = vectors_of(target.features)
        self._engine = _compile(source(self._vectors), target)
        # Written once: memory that was never touched is one page of zeros, and cached.
        self._buffer = np.ones(BUFFER_BYTES, np.uint8)
        self._best = Ceilings(0.0, 0.0, None)

    def measure(self) -> Ceilings:
        """Try again, for about a tenth of a second; the best so far."""
        vectors, best = self._vectors, self._best
        read = BUFFER_BYTES / min(self._seconds(self._read) for _ in range(3))
        flops = self._operations("multiply", vectors.floats)
        ints = self._operations("multiply_bytes", vectors.bytes) if vectors.bytes else None
        self._best = Ceilings(
            max(best.bytes_per_second, read),
            max(best.flops_per_second, flops),
            None if ints is None else max(best.int8_ops_per_second or 0.0, ints),
        )
        return self._best

    def _operations(self, name: str, lanes: int) -> float:
        """Per second: two for each lane, chain and round of a loop."""

        def work(_thread: int) -> Any:
            return self._function(name, ctypes.c_int64)(_ROUNDS)

        return self._threads * _ROUNDS * CHAINS * lanes * 2 / self._seconds(work)

    def _seconds(self, work: Callable[[int], Any]) -> float:
        """How long all threads take for ``work(thread)``."""
        with ThreadPoolExecutor(self._threads) as pool:
            # The first round only starts the threads.
            list(pool.map(time.sleep, [0.001] * self._threads))
            started = time.perf_counter()
            list(pool.map(work, range(self._threads)))
            return time.perf_counter() - started

    def _read(self, thread: int) -> Any:
        function = self._function("read", ctypes.c_void_p, ctypes.c_int64)
        size = BUFFER_BYTES // self._threads // 4096 * 4096
        return function(self._buffer.ctypes.data + thread * size, size)

    def _function(self, name: str, *arguments: Any) -> Any:
        return ctypes.CFUNCTYPE(ctypes.c_int32, *arguments)(self._engine.get_function_address(name))


def _compile(ir: str, target: Target) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, jit=True
    )
    module = llvm.parse_assembly(ir)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
