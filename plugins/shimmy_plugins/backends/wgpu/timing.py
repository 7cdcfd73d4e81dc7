"""How long each call takes on the GPU, by its own clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from wgpu import BufferUsage

from shimmy.errors import EngineError
from shimmy_plugins.backends.wgpu.native import NULL, Errors, Handle, ffi, lib, owned
from shimmy_plugins.backends.wgpu.objects import Buffer, Call, Program, as_calls
from shimmy_plugins.backends.wgpu.steps import Steps

#: Calls measured by one submit; a query set has at most 4096 entries.
_CALLS = 2048


class Timer:
    """Measures calls by timestamp queries.

    Where timestamps can be written between the calls of a pass, the figures are those of a step. Else
    each call gets a pass of its own, which hides what the calls cost each other.
    """

    def __init__(self, device: Handle, steps: Steps, errors: Errors, features: Sequence[str]) -> None:
        if "timestamp-query" not in features:
            raise EngineError(f"the GPU {errors.name} tells no times: it lacks timestamp queries.")
        self._between = "timestamp-query-inside-passes" in features
        self._steps = steps
        self._period = lib.wgpuQueueGetTimestampPeriod(steps.queue) * 1e-9
        descriptor = ffi.new("WGPUQuerySetDescriptor *")
        descriptor.type, descriptor.count = lib.WGPUQueryType_Timestamp, 2 * _CALLS
        self._queries = owned(lib.wgpuDeviceCreateQuerySet(device, descriptor), "wgpuQuerySetRelease")
        wanted = ffi.new("WGPUBufferDescriptor *")
        wanted.usage, wanted.size = int(BufferUsage.QUERY_RESOLVE | BufferUsage.COPY_SRC), 16 * _CALLS
        handle = owned(lib.wgpuDeviceCreateBuffer(device, wanted), "wgpuBufferRelease")
        errors.check("making timestamp queries")
        self._buffer = Buffer(handle, 16 * _CALLS, "timestamps", lambda _buffer: None)

    def seconds(self, work: Sequence[Call | Program]) -> list[float]:
        """The time from the end of what is before it to the end of each call."""
        calls = as_calls(work)
        found: list[float] = []
        for start in range(0, len(calls), _CALLS):
            found += self._measure(calls[start : start + _CALLS])
        return found

    def elapsed(self, work: Sequence[Call | Program]) -> float:
        """The time from the first call's start to the last one's end."""
        encoder = self._steps.encoder()
        self._record_pass(encoder, as_calls(work), 0)
        first, last = self._ticks(encoder, 2)
        return int(last - first) * float(self._period)

    def _measure(self, calls: Sequence[Call]) -> list[float]:
        encoder = self._steps.encoder()
        count = self._record_between(encoder, calls) if self._between else self._record_passes(encoder, calls)
        ticks = self._ticks(encoder, count)
        spans = np.diff(ticks) if self._between else ticks[1::2] - ticks[::2]
        return [float(span) * self._period for span in spans]

    def _record_between(self, encoder: Handle, calls: Sequence[Call]) -> int:
        stamp = lib.wgpuComputePassEncoderWriteTimestamp
        running = lib.wgpuCommandEncoderBeginComputePass(encoder, ffi.new("WGPUComputePassDescriptor *"))
        stamp(running, self._queries, 0)
        for number, call in enumerate(calls):
            _dispatch(running, call)
            stamp(running, self._queries, number + 1)
        _end(running)
        return len(calls) + 1

    def _record_passes(self, encoder: Handle, calls: Sequence[Call]) -> int:
        for number, call in enumerate(calls):
            self._record_pass(encoder, [call], 2 * number)
        return 2 * len(calls)

    def _record_pass(self, encoder: Handle, calls: Sequence[Call], query: int) -> None:
        """A pass whose begin and end are entries ``query`` and the next."""
        descriptor = ffi.new("WGPUComputePassDescriptor *")
        writes = ffi.new("WGPUPassTimestampWrites *")
        writes.querySet = self._queries
        writes.beginningOfPassWriteIndex, writes.endOfPassWriteIndex = query, query + 1
        descriptor.timestampWrites = writes
        running = lib.wgpuCommandEncoderBeginComputePass(encoder, descriptor)
        for call in calls:
            _dispatch(running, call)
        _end(running)

    def _ticks(self, encoder: Handle, count: int) -> NDArray[np.int64]:
        """The first entries of the queries, once the step that ``encoder`` holds has ended."""
        lib.wgpuCommandEncoderResolveQuerySet(encoder, self._queries, 0, count, self._buffer.handle, 0)
        (data,) = self._steps.send(encoder, [self._buffer.slice(0, 8 * count)]).wait()
        return np.frombuffer(data, np.uint64).astype(np.int64)


def _dispatch(running: Handle, call: Call) -> None:
    lib.wgpuComputePassEncoderSetPipeline(running, call.pipeline.handle)
    lib.wgpuComputePassEncoderSetBindGroup(running, 0, call.group.handle, 0, NULL)
    lib.wgpuComputePassEncoderDispatchWorkgroups(running, call.x, call.y, call.z)


def _end(running: Handle) -> None:
    lib.wgpuComputePassEncoderEnd(running)
    lib.wgpuComputePassEncoderRelease(running)
