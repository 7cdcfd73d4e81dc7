"""What this machine can do at most: bytes read from memory and F32 operations per second.

Both are measured by small native loops on as many threads as the engine uses. LLVM is asked for
vectors as wide as the processor has; ctypes lets go of Python's lock while a loop runs.
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

#: Read in one go; far larger than caches are.
BUFFER_BYTES = 256 << 20
#: Independent sums and products, enough to keep every unit of a core busy.
_CHAINS = 12
_ROUNDS = 2_000_000


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best of several tries."""

    bytes_per_second: float
    flops_per_second: float


class CeilingProbe:
    """Measures a little at a time, so that it can be asked between other measurements."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lanes = _lanes()
        self._engine = _compile(_source(self._lanes))
        # Written once: memory that was never touched is one page of zeros, and cached.
        self._buffer = np.ones(BUFFER_BYTES, np.uint8)
        self._best = Ceilings(0.0, 0.0)

    def measure(self) -> Ceilings:
        """Try again, for about a tenth of a second; the best so far."""
        read = BUFFER_BYTES / min(self._seconds(self._read) for _ in range(3))
        flops = self._threads * _ROUNDS * _CHAINS * self._lanes * 2 / self._seconds(self._multiply)
        best = self._best
        self._best = Ceilings(max(best.bytes_per_second, read), max(best.flops_per_second, flops))
        return self._best

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

    def _multiply(self, _thread: int) -> Any:
        return self._function("multiply", ctypes.c_int64)(_ROUNDS)

    def _function(self, name: str, *arguments: Any) -> Any:
        return ctypes.CFUNCTYPE(ctypes.c_int32, *arguments)(self._engine.get_function_address(name))


def _lanes() -> int:
    """Floats in the processor's widest vector."""
    features = llvm.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx") else 4


def _compile(source: str) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )
    module = llvm.parse_assembly(source)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _source(lanes: int) -> str:
    """LLVM IR of ``read(address, bytes)`` and ``multiply(rounds)``."""
    return "\n".join(
        [
            f"declare i32 @llvm.vector.reduce.xor.v{lanes}i32(<{lanes} x i32>)",
            f"declare <{lanes} x float> @llvm.fma.v{lanes}f32(" + ", ".join([f"<{lanes} x float>"] * 3) + ")",
            _loop("read", "ptr %data, i64 %size", f"<{lanes} x i32>", _CHAINS * lanes * 4, _read_step(lanes)),
            _loop("multiply", "i64 %size", f"<{lanes} x float>", 1, _multiply_step(lanes)),
            # Without it LLVM may cut the widest vectors in two on processors that ran hot with them.
            'attributes #0 = { "min-legal-vector-width"="512" }',
        ]
    )


def _loop(name: str, parameters: str, vector: str, step: int, body: list[str]) -> str:
    """A loop over ``%i`` below ``%size - step`` that turns each ``%old{c}`` into ``%new{c}``."""
    chains = range(_CHAINS)
    lanes = vector.split()[0][1:]
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
            f"%result = call i32 @llvm.vector.reduce.xor.v{lanes}i32({whole} %x{_CHAINS - 1})",
            "ret i32 %result",
            "}",
        ]
    )


def _read_step(lanes: int) -> list[str]:
    vector = f"<{lanes} x i32>"
    lines = []
    for c in range(_CHAINS):
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
        for c in range(_CHAINS)
    ]
