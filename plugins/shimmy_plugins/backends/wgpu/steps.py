"""Steps on their way: recorded by direct calls, submitted in one piece, read back through a ring.

Recording costs about 3 us a call, so a step that was submitted runs while the next one is recorded.
Results are copied, at the end of the step that makes them, into buffers the CPU can map; the mapping is
asked for right after the submit, so it is ready when that step is, whatever runs after it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from wgpu import BufferUsage, MapMode

from shimmy.errors import EngineError
from shimmy_plugins.backends.wgpu.native import NULL, Errors, Handle, ffi, lib, owned
from shimmy_plugins.backends.wgpu.objects import Buffer, Call, Program, Slice

#: Read-back buffers of at most this size are kept for the next step.
KEPT_BYTES = 4 << 20
_LEAST_BYTES = 4096


class Steps:
    """Records and submits the steps of one device."""

    def __init__(self, device: Handle, errors: Errors) -> None:
        self._device = device
        self._errors = errors
        self.queue = owned(lib.wgpuDeviceGetQueue(device), "wgpuQueueRelease")
        self.destroyed: weakref.WeakSet[Buffer] = weakref.WeakSet()
        """Destroyed buffers that something still refers to. The library ends the process that uses one."""
        self._ring: list[_Slot] = []
        self._encoder_descriptor = ffi.new("WGPUCommandEncoderDescriptor *")
        self._pass_descriptor = ffi.new("WGPUComputePassDescriptor *")
        self._finish_descriptor = ffi.new("WGPUCommandBufferDescriptor *")
        self._submitted = ffi.new("WGPUCommandBuffer[1]")
        self._awaited = ffi.new("WGPUSubmissionIndex *")

    def submit(self, work: Sequence[Call | Program], read: Sequence[Slice] = ()) -> Ticket:
        """Run calls in order, in one pass; what each needs of those before it is ready by then."""
        if self.destroyed:
            self._check_alive(work, read)
        encoder = lib.wgpuDeviceCreateCommandEncoder(self._device, self._encoder_descriptor)
        if work:
            self._record(encoder, work)
        slot = None
        if read:
            slot = self._slot(sum(piece.size for piece in read))
            offset = 0
            for piece in read:
                lib.wgpuCommandEncoderCopyBufferToBuffer(
                    encoder, piece.buffer.handle, piece.offset, slot.handle, offset, piece.size
                )
                offset += piece.size
        index = self.finish(encoder)
        ticket = Ticket(self, index, slot, [piece.size for piece in read])
        if slot:
            slot.map_for(ticket, sum(piece.size for piece in read))
            self._errors.check("mapping results")
        return ticket

    def finish(self, encoder: Handle) -> int:
        """Submit what was recorded, and forget the encoder; the submission's index."""
        commands = lib.wgpuCommandEncoderFinish(encoder, self._finish_descriptor)
        lib.wgpuCommandEncoderRelease(encoder)
        try:
            self._errors.check("recording a step")
            self._submitted[0] = commands
            index: int = lib.wgpuQueueSubmitForIndex(self.queue, 1, self._submitted)
            self._errors.check("submitting a step")
            return index
        finally:
            lib.wgpuCommandBufferRelease(commands)

    def wait(self, index: int) -> None:
        """Until the submission ``index`` has ended."""
        self._awaited[0] = index
        lib.wgpuDevicePoll(self._device, True, self._awaited)
        self._errors.check("waiting for a step")

    def poll(self) -> bool:
        """Let ended submissions be known; whether all have ended."""
        empty = bool(lib.wgpuDevicePoll(self._device, False, NULL))
        self._errors.check("looking for ended steps")
        return empty

    def _check_alive(self, work: Sequence[Call | Program], read: Sequence[Slice]) -> None:
        calls = [call for item in work for call in (item.calls if isinstance(item, Program) else (item,))]
        for piece in (*read, *(piece for call in calls for piece in call.group.slices)):
            if piece.buffer in self.destroyed:
                raise EngineError(f"a step uses {piece.buffer}, which is destroyed.")

    def _record(self, encoder: Handle, work: Sequence[Call | Program]) -> None:
        set_pipeline = lib.wgpuComputePassEncoderSetPipeline
        set_group = lib.wgpuComputePassEncoderSetBindGroup
        dispatch = lib.wgpuComputePassEncoderDispatchWorkgroups
        running = lib.wgpuCommandEncoderBeginComputePass(encoder, self._pass_descriptor)
        current = None
        for item in work:
            program = item if isinstance(item, Program) else Program((item,))
            for (pipeline, group), (x, y, z) in zip(program.handles, program.sizes, strict=True):
                if x and y and z:
                    if pipeline is not current:
                        set_pipeline(running, pipeline)
                        current = pipeline
                    set_group(running, 0, group, 0, NULL)
                    dispatch(running, x, y, z)
        lib.wgpuComputePassEncoderEnd(running)
        lib.wgpuComputePassEncoderRelease(running)

    def _slot(self, size: int) -> _Slot:
        """A read-back buffer of at least ``size`` bytes that no step uses."""
        self._ring = [slot for slot in self._ring if slot.capacity <= KEPT_BYTES or not slot.free]
        fitting = [slot for slot in self._ring if slot.capacity >= size and slot.free]
        if fitting:
            return min(fitting, key=lambda slot: slot.capacity)
        capacity = max(_LEAST_BYTES, 1 << (size - 1).bit_length()) if size <= KEPT_BYTES else size
        descriptor = ffi.new("WGPUBufferDescriptor *")
        descriptor.usage, descriptor.size = int(BufferUsage.MAP_READ | BufferUsage.COPY_DST), capacity
        handle = lib.wgpuDeviceCreateBuffer(self._device, descriptor)
        self._errors.check(f"making a buffer of {capacity} bytes to read results")
        slot = _Slot(owned(handle, "wgpuBufferRelease"), capacity)
        self._ring.append(slot)
        return slot


class Ticket:
    """A submitted step."""

    def __init__(self, steps: Steps, index: int, slot: _Slot | None, sizes: list[int]) -> None:
        self._steps = steps
        self._index = index
        self._slot = slot
        self._sizes = sizes
        self._pieces: tuple[bytes, ...] | None = None

    def done(self) -> bool:
        """Whether :meth:`wait` will not wait. Of a step that reads nothing, whether all steps have ended."""
        if self._pieces is not None:
            return True
        empty = self._steps.poll()
        return self._slot.settled if self._slot else empty

    def wait(self) -> tuple[bytes, ...]:
        """The contents that the slices to be read had at the end of the step.

        Raises:
            EngineError: the step failed, or the device was lost.
        """
        if self._pieces is None:
            if self._slot is None or not self._slot.settled:
                self._steps.wait(self._index)
            self._pieces = self._slot.take(self._sizes) if self._slot else ()
            self._slot = None
        return self._pieces


class _Slot:
    """A buffer of the ring. It lives as long as the ring: the library calls it when a mapping is ready."""

    def __init__(self, handle: Handle, capacity: int) -> None:
        self.handle = handle
        self.capacity = capacity
        self._pending = False
        self._status: int | None = None
        self._message = ""
        self._size = 0
        self._owner: weakref.ref[Ticket] | None = None
        self._info = ffi.new("WGPUBufferMapCallbackInfo *")
        self._callback = ffi.callback("void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)", self._ready)
        self._info.mode = lib.WGPUCallbackMode_AllowProcessEvents
        self._info.callback = self._callback

    @property
    def settled(self) -> bool:
        return not self._pending

    @property
    def free(self) -> bool:
        """Whether nobody waits for it; what a forgotten ticket left mapped is unmapped here."""
        if self._pending or (self._owner is not None and self._owner() is not None):
            return False
        self._unmap()
        return True

    def map_for(self, owner: Ticket, size: int) -> None:
        self._owner, self._size, self._pending = weakref.ref(owner), size, True
        lib.wgpuBufferMapAsync(self.handle, int(MapMode.READ), 0, size, self._info[0])

    def take(self, sizes: list[int]) -> tuple[bytes, ...]:
        """The mapped contents, cut into pieces; the slot is free then."""
        status, self._owner = self._status, None
        if status != lib.WGPUMapAsyncStatus_Success:
            raise EngineError(f"results of the GPU cannot be read (status {status}).")
        view = ffi.buffer(lib.wgpuBufferGetConstMappedRange(self.handle, 0, self._size), self._size)
        pieces, offset = [], 0
        for size in sizes:
            pieces.append(view[offset : offset + size])
            offset += size
        self._unmap()
        return tuple(pieces)

    def _unmap(self) -> None:
        if self._status == lib.WGPUMapAsyncStatus_Success:
            lib.wgpuBufferUnmap(self.handle)
        self._status = None

    def _ready(self, status: int, _message: Handle, _first: Handle, _second: Handle) -> None:
        self._status, self._pending = status, False
