"""Which kernel takes how long in a step, by timestamps of the GPU; and what the processor computes of it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from time import perf_counter

from shimmy.engine.plan import KernelTime, Profile
from shimmy.graph.batch import Batch
from shimmy_plugins.backends.wgpu.device import Call, Gpu, Slice
from shimmy_plugins.backends.wgpu.fallback import Fallback, part_of
from shimmy_plugins.backends.wgpu.kernel import Dispatch, Size
from shimmy_plugins.backends.wgpu.measure import bandwidth
from shimmy_plugins.backends.wgpu.program import PhaseProgram
from shimmy_plugins.backends.wgpu.step import phase_words

#: Runs of which each kernel's median counts.
_RUNS = 7


def profile(
    gpu: Gpu, numbers: Slice, program: PhaseProgram, batch: Batch, rows: slice, size: Size
) -> Profile:
    """The kernels of one phase of a step, whose KV blocks are reserved.

    Raises:
        EngineError: the adapter tells no times.
    """
    ceiling = bandwidth(gpu)
    own = part_of(batch, rows)
    gpu.upload(numbers, phase_words(batch, rows, 0))
    times: list[KernelTime] = []
    for part in program.calls_at(size):
        if isinstance(part, list):
            times += _timed(gpu, part, size)
        else:
            times.append(_by_processor(part, own))
    return Profile(times, ceiling)


def _by_processor(part: Fallback, batch: Batch) -> KernelTime:
    """What the processor computes, with the way there and back."""

    def seconds() -> float:
        started = perf_counter()
        part.compute((), batch, 0)
        return perf_counter() - started

    seconds()
    taken = median(seconds() for _ in range(_RUNS))
    return KernelTime(part.node.label, f"the processor: {part.node.op}", taken, None, None)


def _timed(gpu: Gpu, calls: list[tuple[Dispatch, Call]], size: Size) -> Iterator[KernelTime]:
    work = [call for _, call in calls]
    gpu.run(work)
    runs = [gpu.seconds(work) for _ in range(_RUNS)]
    for (dispatch, call), *seconds in zip(calls, *runs, strict=True):
        cost = dispatch.cost(size) if dispatch.cost else None
        yield KernelTime(
            dispatch.node,
            call.pipeline.label,
            median(seconds),
            cost.bytes if cost else None,
            cost.operations if cost else None,
        )
