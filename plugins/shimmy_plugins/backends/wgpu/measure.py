"""How fast a GPU reads its memory, and what a dispatch costs besides its work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from statistics import median

import numpy as np

from shimmy.errors import EngineError
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Call, Gpu, Program, Slice

#: Bytes that are summed: more than caches hold.
_BYTES = 256 << 20
#: Vectors of 16 bytes that a workgroup sums.
_VECTORS = 2048
#: Seconds of work before the first figure: an idle card runs at a fraction of its clock.
_WARM_UP = 0.5
_REPEATS = 7
_CALLS = 200
#: Calls of a typical step.
_STEP = 113


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of several runs; times in seconds."""

    bytes_read: int
    bandwidth: float
    """Bytes a second, by the time of the whole read."""
    dependent_dispatch: float
    """Of the GPU's time, where a call waits for the one before."""
    independent_dispatch: float
    """The same where it does not."""
    recorded_dispatch: float
    """Of the CPU's time, for recording and submitting a step of 113 calls."""
    round_trip: float
    """From submitting one small call until its result is read."""


def bandwidth(gpu: Gpu) -> float:
    """Bytes a second that are read from memory. Raises like :func:`measure`."""
    read, size = _reading(gpu, Composer({"shimmy": files("shimmy_shaders")}))
    if not gpu.facts.software:
        _warm_up(gpu, read)
    return size / _typical(lambda: gpu.elapsed([read]))


def measure(gpu: Gpu) -> Measured:
    """Takes one to two seconds.

    Raises:
        EngineError: the adapter tells no times, or sums wrongly.
        OutOfMemoryError: the memory to be read is not free.
    """
    composer = Composer({"shimmy": files("shimmy_shaders")})
    read, size = _reading(gpu, composer)
    count = gpu.pipeline(composer.compose("shimmy/measure/count.wgsl"), "count")
    buffers = [gpu.buffer(256, "count").whole() for _ in range(_CALLS)]
    calls = [gpu.call(count, gpu.bind(count, [buffer]), 1) for buffer in buffers]
    if not gpu.facts.software:
        _warm_up(gpu, read)
    step = gpu.program(calls[:_STEP])
    return Measured(
        bytes_read=size,
        bandwidth=size / _typical(lambda: gpu.elapsed([read])),
        dependent_dispatch=_typical(lambda: gpu.elapsed([calls[0]] * _CALLS)) / _CALLS,
        independent_dispatch=_typical(lambda: gpu.elapsed(calls)) / _CALLS,
        recorded_dispatch=_typical(lambda: _cpu_time(gpu, [step])) / _STEP,
        round_trip=_typical(lambda: _round_trip(gpu, calls[0], buffers[0])),
    )


def _reading(gpu: Gpu, composer: Composer) -> tuple[Call, int]:
    """A call that sums as much memory as one can be given, found to sum rightly; and how much it is."""
    stretch = _VECTORS * 16
    most = min(_BYTES, gpu.limits.storage_binding, gpu.limits.buffer, gpu.limits.workgroups * stretch)
    groups = most // stretch
    words = gpu.buffer(groups * stretch, "memory to be read").whole()
    sums = gpu.buffer(groups * 1024, "sums").whole()
    fill = gpu.pipeline(composer.compose("shimmy/measure/fill.wgsl", vectors=_VECTORS), "fill")
    add = gpu.pipeline(composer.compose("shimmy/measure/sum.wgsl", vectors=_VECTORS), "sum")
    call = gpu.call(add, gpu.bind(add, [words, sums]), groups)
    gpu.run([gpu.call(fill, gpu.bind(fill, [words]), groups), call])
    count = words.size // 4
    if gpu.read(sums, np.uint32).sum(dtype=np.uint32) != count * (count - 1) // 2 % 2**32:
        raise EngineError(f"{gpu.facts.name} computes wrong sums.")
    return call, words.size


def _warm_up(gpu: Gpu, call: Call) -> None:
    end = time.monotonic() + _WARM_UP
    while time.monotonic() < end:
        gpu.run([call] * 8)


def _typical(once: Callable[[], float]) -> float:
    once()
    return median(once() for _ in range(_REPEATS))


def _cpu_time(gpu: Gpu, step: list[Program]) -> float:
    start = time.thread_time()
    ticket = gpu.submit(step)
    spent = time.thread_time() - start
    ticket.wait()
    return spent


def _round_trip(gpu: Gpu, call: Call, result: Slice) -> float:
    start = time.perf_counter()
    gpu.submit([call], [result]).wait()
    return time.perf_counter() - start
