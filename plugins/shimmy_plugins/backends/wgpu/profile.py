"""Which kernel takes how long in a step, by timestamps of the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from shimmy.engine.plan import KernelTime, Profile
from shimmy.graph.batch import Batch
from shimmy_plugins.backends.wgpu.device import Call, Gpu, Slice
from shimmy_plugins.backends.wgpu.fallback import part_of
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
    gpu.upload(numbers, phase_words(batch, rows, 0))
    times: list[KernelTime] = []
    for part in program.calls_at(size):
        if isinstance(part, list):
            times += _timed(gpu, part, size)
        else:
            part.compute((), part_of(batch, rows), 0)
    return Profile(times, ceiling)


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
