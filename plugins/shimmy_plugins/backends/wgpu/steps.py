"""Steps on their way: recorded by direct calls, submitted, waited for by number.

Recording costs about 3 us a call, so a step that was submitted runs while the next one is recorded. Where
nothing runs, a step is submitted in pieces: the first runs while others are recorded.
Results are copied, at the end of the step that makes them, into a buffer the CPU can map; the mapping is
asked for right after the submit, so it is ready when that step is, whatever runs after it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from shimmy.errors import EngineError
from shimmy_plugins.backends.wgpu.native import NULL, Errors, Handle, ffi, lib, owned
from shimmy_plugins.backends.wgpu.objects import Buffer, Call, Program, Slice, as_calls
from shimmy_plugins.backends.wgpu.readback import Ring, Slot

#: Calls of a piece; a submit costs as much time as ten of them.
_PIECE = 32


class Steps:
    """Records and submits the steps of one device."""

    def __init__(self, device: Handle, errors: Errors) -> None:
        self.queue = owned(lib.wgpuDeviceGetQueue(device), "wgpuQueueRelease")
        self.destroyed: weakref.WeakSet[Buffer] = weakref.WeakSet()
        """Destroyed buffers that something still refers to. The library ends the process that uses one."""
        self._device = device
        self._errors = errors
        self._ring = Ring(device, errors)
        self._encoder = ffi.new("WGPUCommandEncoderDescriptor *")
        self._pass = ffi.new("WGPUComputePassDescriptor *")
        self._finish = ffi.new("WGPUCommandBufferDescriptor *")
        self._commands = ffi.new("WGPUCommandBuffer[1]")
        self._awaited = ffi.new("WGPUSubmissionIndex *")

    def submit(self, work: Sequence[Call | Program], read: Sequence[Slice] = ()) -> Ticket:
        """Run calls in order, in one pass; what each needs of those before it is ready by then."""
        if self.destroyed:
            self._check_alive(work, read)
        return self.send(self._recorded(work), read)

    def encoder(self) -> Handle:
        """What a step is recorded into; :meth:`send` uses it up."""
        return lib.wgpuDeviceCreateCommandEncoder(self._device, self._encoder)

    def send(self, encoder: Handle, read: Sequence[Slice] = ()) -> Ticket:
        """Submit what was recorded, then ask for the slices."""
        if not read:
            return Ticket(self, self._submit(encoder), None, ())
        sizes = [piece.size for piece in read]
        slot, offset = self._ring.slot(sum(sizes)), 0
        for piece in read:
            lib.wgpuCommandEncoderCopyBufferToBuffer(
                encoder, piece.buffer.handle, piece.offset, slot.handle, offset, piece.size
            )
            offset += piece.size
        ticket = Ticket(self, self._submit(encoder), slot, sizes)
        slot.map(ticket, offset)
        self._errors.check("asking for results")
        return ticket

    def wait(self, index: int) -> None:
        """Until the submission ``index`` has ended."""
        self._awaited[0] = index
        lib.wgpuDevicePoll(self._device, True, self._awaited)
        self._errors.check("waiting for a step")

    def poll(self) -> bool:
        """Take notice of what has ended; whether everything has."""
        empty = bool(lib.wgpuDevicePoll(self._device, False, NULL))
        self._errors.check("looking for ended steps")
        return empty

    def _recorded(self, work: Sequence[Call | Program]) -> Handle:
        """Record the work; what is returned holds what has not been submitted yet."""
        programs = [item if isinstance(item, Program) else Program((item,)) for item in work]
        calls = [
            (*handles, *size)
            for program in programs
            for handles, size in zip(program.handles, program.sizes, strict=True)
            if all(size)
        ]
        encoder = self.encoder()
        running = NULL
        for start in range(0, len(calls), _PIECE):
            if not running:
                running = lib.wgpuCommandEncoderBeginComputePass(encoder, self._pass)
            _record(running, calls[start : start + _PIECE])
            last = start + _PIECE >= len(calls)
            idle = not last and self.poll()
            if last or idle:
                lib.wgpuComputePassEncoderEnd(running)
                lib.wgpuComputePassEncoderRelease(running)
                running = NULL
            if idle:
                self._submit(encoder)
                encoder = self.encoder()
        return encoder

    def _submit(self, encoder: Handle) -> int:
        self._commands[0] = lib.wgpuCommandEncoderFinish(encoder, self._finish)
        lib.wgpuCommandEncoderRelease(encoder)
        try:
            self._errors.check("recording a step")
            index: int = lib.wgpuQueueSubmitForIndex(self.queue, 1, self._commands)
            self._errors.check("submitting a step")
            return index
        finally:
            lib.wgpuCommandBufferRelease(self._commands[0])

    def _check_alive(self, work: Sequence[Call | Program], read: Sequence[Slice]) -> None:
        for piece in (*read, *(piece for call in as_calls(work) for piece in call.group.slices)):
            if piece.buffer in self.destroyed:
                raise EngineError(f"a step uses {piece.buffer}, which is destroyed.")


def _record(running: Handle, calls: Sequence[tuple[Handle, Handle, int, int, int]]) -> None:
    """Calls of pipelines with bind groups and workgroups, into a pass."""
    set_pipeline = lib.wgpuComputePassEncoderSetPipeline
    set_group = lib.wgpuComputePassEncoderSetBindGroup
    dispatch = lib.wgpuComputePassEncoderDispatchWorkgroups
    current = None
    for pipeline, group, x, y, z in calls:
        if pipeline is not current:
            set_pipeline(running, pipeline)
            current = pipeline
        set_group(running, 0, group, 0, NULL)
        dispatch(running, x, y, z)


class Ticket:
    """A submitted step."""

    def __init__(self, steps: Steps, index: int, slot: Slot | None, sizes: Sequence[int]) -> None:
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
        return not self._slot.pending if self._slot else empty

    def wait(self) -> tuple[bytes, ...]:
        """The contents that the slices to be read had at the end of the step.

        Raises:
            EngineError: the device was lost.
        """
        if self._pieces is None:
            if self._slot is None or self._slot.pending:
                self._steps.wait(self._index)
            self._pieces = self._slot.take(self._sizes) if self._slot else ()
            self._slot = None
        return self._pieces
