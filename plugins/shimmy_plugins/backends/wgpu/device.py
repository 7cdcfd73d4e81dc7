"""A GPU opened for computing: buffers, pipelines, bind groups, and steps made of them.

All of a device is used from one thread, but shaders are compiled in others. What the library reports of a
call is raised by the method that made the call.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from wgpu import BufferUsage

from shimmy.engine.machine import usable_cores
from shimmy.errors import EngineError, OutOfMemoryError
from shimmy_plugins.backends.wgpu.adapters import Adapter
from shimmy_plugins.backends.wgpu.native import (
    Errors,
    GpuLimits,
    Handle,
    features_of,
    ffi,
    lib,
    limits_of,
    open_device,
    owned,
    set_text,
)
from shimmy_plugins.backends.wgpu.objects import BindGroup, Buffer, Call, Pipeline, Program, Slice
from shimmy_plugins.backends.wgpu.steps import Steps, Ticket
from shimmy_plugins.backends.wgpu.timing import Timer

__all__ = ["BindGroup", "Buffer", "Call", "Gpu", "GpuLimits", "Pipeline", "Program", "Slice", "Ticket"]

#: Bytes of uploads that are submitted together; the library holds copies of them until they are done.
UPLOAD_BYTES = 32 << 20
#: Offsets of slices that are bound are multiples of this, on every GPU.
ALIGNMENT = 256
_USAGE = int(BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST)


class Gpu:
    """An open device. ``memory`` is the budget for its buffers in bytes; None: whatever there is."""

    def __init__(self, adapter: Adapter, memory: int | None = None) -> None:
        self.facts = adapter.facts
        self.features = features_of(adapter.handle)
        self.limits = limits_of(adapter.handle)
        self.memory = memory
        self.used = 0
        """Bytes of live buffers."""
        self._errors = Errors(adapter.facts.name)
        self._adapter = adapter
        self._device = open_device(adapter.instance, adapter.handle, self._errors)
        self._steps = Steps(self._device, self._errors)
        self._pipelines: dict[str, Pipeline] = {}
        self._compiling: dict[str, Future[Pipeline]] = {}
        self._compilers = ThreadPoolExecutor(usable_cores(), "shaders")
        self._uploaded = 0
        self._uploading: Ticket | None = None
        usable = "subgroup" in self.features and self.facts.even_subgroups
        self.subgroup = self._probe_subgroup() if usable else 0
        """Lanes of a subgroup; 0: subgroup functions cannot be used."""

    @property
    def free(self) -> int | None:
        """Bytes of the budget that are left; None without one."""
        return None if self.memory is None else max(self.memory - self.used, 0)

    def buffer(self, size: int, label: str) -> Buffer:
        """Memory of at least ``size`` bytes, rounded up to whole words.

        Raises:
            OutOfMemoryError: the size is over the adapter's limit, the budget, or what is free.
        """
        size = max(-(-size // 4) * 4, 4)
        if size > self.limits.buffer:
            raise self._too_much(size, label, f"a buffer can have {readable(self.limits.buffer)} here")
        if self.memory is not None and self.used + size > self.memory:
            raise self._too_much(size, label, f"it may take {readable(self.memory)} (gpu_memory)")
        descriptor = ffi.new("WGPUBufferDescriptor *")
        descriptor.usage, descriptor.size = _USAGE, size
        _memory = set_text(descriptor.label, label)
        handle = owned(lib.wgpuDeviceCreateBuffer(self._device, descriptor), "wgpuBufferRelease")
        try:
            self._errors.check(f"making the buffer {label!r}")
        except OutOfMemoryError as error:
            raise self._too_much(size, label, "the GPU has no more free") from error
        self.used += size
        return self._counted(handle, size, label)

    def upload(self, target: Slice | Buffer, data: NDArray[Any] | bytes, offset: int = 0) -> None:
        """Write ``data`` into ``target``, ``offset`` bytes (a multiple of 4) behind its start.

        Steps submitted later see it, those before do not. Where the data does not end with a whole
        word, the rest of that word becomes zero.
        """
        whole = _whole(target)
        raw = np.ascontiguousarray(data).data.cast("B") if isinstance(data, np.ndarray) else memoryview(data)
        if offset % 4 or offset + -(-len(raw) // 4) * 4 > whole.size:
            raise EngineError(
                f"{len(raw)} bytes cannot be written at {offset} of {whole.size} of {whole.buffer.label!r}."
            )
        start = whole.offset + offset
        even = len(raw) // 4 * 4
        for at in range(0, even, UPLOAD_BYTES):
            self._write(whole.buffer, start + at, raw[at : min(at + UPLOAD_BYTES, even)])
        if tail := bytes(raw[even:]):
            self._write(whole.buffer, start + even, memoryview(tail.ljust(4, b"\0")))

    def copy(self, source: Slice, target: Slice) -> None:
        """Copy to the start of ``target``, in another buffer, after all steps submitted so far."""
        encoder = self._steps.encoder()
        lib.wgpuCommandEncoderCopyBufferToBuffer(
            encoder, source.buffer.handle, source.offset, target.buffer.handle, target.offset, source.size
        )
        self._steps.send(encoder)

    def read(self, source: Slice | Buffer, dtype: DTypeLike, count: int | None = None) -> NDArray[Any]:
        """The first ``count`` elements, or all, after every step submitted so far."""
        whole, kind = _whole(source), np.dtype(dtype)
        count = whole.size // kind.itemsize if count is None else count
        size = -(-count * kind.itemsize // 4) * 4
        if size > whole.size:
            raise EngineError(
                f"{count} {kind} are more than the {whole.size} bytes of {whole.buffer.label!r}."
            )
        if count == 0:
            return np.empty(0, kind)
        (data,) = self.submit((), [Slice(whole.buffer, whole.offset, size)]).wait()
        return np.frombuffer(data, kind, count)

    def prepare(self, source: str, label: str) -> None:
        """Begin to compile a shader that is needed soon; :meth:`pipeline` waits for it."""
        if source not in self._pipelines and source not in self._compiling:
            self._compiling[source] = self._compilers.submit(self._compile, source, label)

    def pipeline(self, source: str, label: str) -> Pipeline:
        """The compiled shader; its entry point is ``main``. Made once for equal sources.

        No access is checked against the bounds of its buffer: shaders must be right.

        Raises:
            EngineError: it does not compile; the message shows where.
        """
        if source not in self._pipelines:
            prepared = self._compiling.pop(source, None)
            self._pipelines[source] = prepared.result() if prepared else self._compile(source, label)
        return self._pipelines[source]

    def bind(self, pipeline: Pipeline, slices: Sequence[Slice]) -> BindGroup:
        """Slices as the bindings 0, 1, ... of a pipeline.

        Raises:
            EngineError: they are not what its shader declares.
        """
        entries = ffi.new("WGPUBindGroupEntry[]", len(slices))
        for number, (entry, piece) in enumerate(zip(entries, slices, strict=True)):
            if piece.offset % ALIGNMENT:
                raise EngineError(
                    f"a slice of {piece.buffer} starts at {piece.offset}, no multiple of {ALIGNMENT}."
                )
            entry.binding, entry.buffer = number, piece.buffer.handle
            entry.offset, entry.size = piece.offset, piece.size
        descriptor = ffi.new("WGPUBindGroupDescriptor *")
        descriptor.layout = pipeline.layout
        descriptor.entries, descriptor.entryCount = entries, len(slices)
        handle = owned(lib.wgpuDeviceCreateBindGroup(self._device, descriptor), "wgpuBindGroupRelease")
        self._errors.check(
            f"binding {', '.join(map(repr, (s.buffer for s in slices)))} to {pipeline.label!r}"
        )
        return BindGroup(handle, tuple(slices))

    def call(self, pipeline: Pipeline, group: BindGroup, x: int, y: int = 1, z: int = 1) -> Call:
        return Call(pipeline, group, x, y, z)

    def program(self, calls: Iterable[Call]) -> Program:
        return Program(calls)

    def submit(self, work: Sequence[Call | Program], read: Sequence[Slice] = ()) -> Ticket:
        """Run calls in order, in one pass, without waiting; ``read`` is what its ticket will tell.

        Raises:
            EngineError: a call does not suit the device, a buffer is destroyed, the device is lost.
        """
        return self._steps.submit(work, read)

    def run(self, work: Sequence[Call | Program]) -> None:
        """Run calls and wait for them."""
        self.submit(work).wait()

    def seconds(self, work: Sequence[Call | Program]) -> list[float]:
        """The GPU's time for each call, in a run of all in order; see :class:`.timing.Timer`.

        Raises:
            EngineError: the adapter has no timestamp queries.
        """
        return self._timer.seconds(work)

    def elapsed(self, work: Sequence[Call | Program]) -> float:
        """The GPU's seconds for all calls, with nothing in between. Raises like :meth:`seconds`."""
        return self._timer.elapsed(work)

    def close(self) -> None:
        """Free everything; no method may be called afterwards."""
        self._compilers.shutdown(cancel_futures=True)
        self.run(())
        lib.wgpuDeviceDestroy(self._device)

    @cached_property
    def _timer(self) -> Timer:
        return Timer(self._device, self._steps, self._errors, self.features)

    def _write(self, buffer: Buffer, offset: int, data: memoryview) -> None:
        lib.wgpuQueueWriteBuffer(self._steps.queue, buffer.handle, offset, ffi.from_buffer(data), len(data))
        self._errors.check(f"writing to {buffer}")
        self._uploaded += len(data)
        if self._uploaded >= UPLOAD_BYTES:
            # Two such loads are on their way: one is copied here while the other travels.
            before, self._uploading = self._uploading, self.submit(())
            if before:
                before.wait()
            self._uploaded = 0

    def _counted(self, handle: Handle, size: int, label: str) -> Buffer:
        def destroyed(buffer: Buffer) -> None:
            freed()
            self._steps.destroyed.add(buffer)

        buffer = Buffer(handle, size, label, destroyed)
        freed = weakref.finalize(buffer, self._give_back, size)
        freed.atexit = False
        return buffer

    def _give_back(self, size: int) -> None:
        self.used -= size

    def _too_much(self, size: int, label: str, why: str) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"no memory for {label}, {readable(size)}, on {self.facts.name}: "
            f"{why}, {readable(self.used)} are in use.",
            hint="Lower max_ctx, leave layers to the CPU with gpu_layers, or take a smaller model.",
        )

    def _compile(self, source: str, label: str) -> Pipeline:
        code, descriptor = ffi.new("WGPUShaderSourceWGSL *"), ffi.new("WGPUShaderModuleDescriptor *")
        code.chain.sType = lib.WGPUSType_ShaderSourceWGSL
        kept = [set_text(code.code, source), set_text(descriptor.label, label)]
        descriptor.nextInChain = ffi.addressof(code, "chain")
        doing = f"compiling the shader {label!r}"
        module = owned(
            lib.wgpuDeviceCreateShaderModuleTrusted(self._device, descriptor, 0), "wgpuShaderModuleRelease"
        )
        self._errors.check(doing)
        stage = ffi.new("WGPUComputePipelineDescriptor *")
        kept += [set_text(stage.label, label), set_text(stage.compute.entryPoint, "main")]
        stage.compute.module = module
        handle = owned(lib.wgpuDeviceCreateComputePipeline(self._device, stage), "wgpuComputePipelineRelease")
        self._errors.check(doing)
        layout = lib.wgpuComputePipelineGetBindGroupLayout(handle, 0)
        self._errors.check(doing)
        return Pipeline(handle, owned(layout, "wgpuBindGroupLayoutRelease"), label)

    def _probe_subgroup(self) -> int:
        """Lanes of a subgroup as a kernel sees them: adapters only tell a range, 4 to 128."""
        try:
            source = files("shimmy_shaders").joinpath("measure", "subgroup.wgsl").read_text("utf-8")
            pipeline = self.pipeline(source, "subgroup probe")
        except EngineError:
            return 0
        found = self.buffer(8, "subgroup probe")
        self.run([self.call(pipeline, self.bind(pipeline, [found.whole()]), 1)])
        lanes, total = self.read(found, np.uint32)
        return int(lanes) if lanes == total else 0


def _whole(place: Slice | Buffer) -> Slice:
    return place.whole() if isinstance(place, Buffer) else place


def readable(count: int) -> str:
    """``1.50 GiB``."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
