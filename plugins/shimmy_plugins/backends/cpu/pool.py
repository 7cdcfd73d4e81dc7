"""Persistent threads that run call tables together; parked, they cost nothing."""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shimmy_plugins.backends.cpu.memory import aligned

#: Name of the native function in ``driver.ll``.
DRIVER = "run"
#: A pause takes 40 to 140 cycles: together some tens of microseconds.
SPINS = 1000
#: Size of the control block and the place of the yield function in it.
_CONTROL_WORDS, _YIELD_WORD = 16, 8

#: calls, begin, end, first region, thread, threads, control block
_Driver = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 5, ctypes.c_void_p)


def driver_ir() -> str:
    """LLVM IR of the driver for this processor."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    pause = "call void @llvm.x86.sse2.pause()" if x86 else "call void @llvm.aarch64.hint(i32 1)"
    source = Path(__file__).with_name("driver.ll").read_text(encoding="utf-8")
    lines = [line.replace("PAUSE", pause).replace("SPINS", str(SPINS)) for line in source.splitlines()]
    # An intrinsic of another processor must not even be declared.
    foreign = "declare void @llvm.aarch64" if x86 else "declare void @llvm.x86"
    return "\n".join(line for line in lines if not line.startswith((";", foreign)))


def _yield_address() -> int:
    """The system's function that gives the core to another thread."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class Pool:
    """The calling thread and ``threads - 1`` others; ``driver`` is the address of the native loop."""

    def __init__(self, threads: int, driver: int) -> None:
        self.threads = threads
        self._driver = _Driver(driver)
        self._control = aligned((_CONTROL_WORDS,), np.int64)
        self._control[_YIELD_WORD] = _yield_address()
        self._regions = 0
        """Number of the next region; it is never used again, so latecomers cannot take part in it."""
        self._work: tuple[int, int, int, int] | None = None
        self._wake = [threading.Semaphore(0) for _ in range(threads - 1)]
        self._workers = [
            threading.Thread(target=self._serve, args=(i + 1,), name=f"shimmy-cpu-{i + 1}", daemon=True)
            for i in range(threads - 1)
        ]
        for worker in self._workers:
            worker.start()

    def run(self, calls: NDArray[np.int64], begin: int, end: int) -> None:
        """Run the calls from ``begin`` to before ``end``, which must be whole regions."""
        calls[begin:end, 3] = 0  # nothing is claimed
        self._work = (calls.ctypes.data, begin, end, self._regions)
        self._regions += int(calls[begin:end, 2].sum())
        self._start(self._work)

    def close(self) -> None:
        """End the threads; the pool cannot be used afterwards."""
        self._work = None
        for wake in self._wake:
            wake.release()
        for worker in self._workers:
            worker.join()
        self._workers, self._wake = [], []

    def _start(self, work: tuple[int, int, int, int]) -> None:
        for wake in self._wake:
            wake.release()
        self._driver(*work, 0, self.threads, self._control.ctypes.data)

    def _serve(self, thread: int) -> None:
        while True:
            self._wake[thread - 1].acquire()
            work = self._work
            if work is None:
                return
            self._driver(*work, thread, self.threads, self._control.ctypes.data)
