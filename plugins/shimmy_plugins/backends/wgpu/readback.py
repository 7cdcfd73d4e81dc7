"""Buffers in which the CPU reads results: several steps may be on their way with one each."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from wgpu import BufferUsage, MapMode

from shimmy.errors import EngineError
from shimmy_plugins.backends.wgpu.native import Errors, Handle, ffi, lib, owned, text

#: Buffers of at most this size are kept for later steps.
KEPT_BYTES = 4 << 20
_LEAST_BYTES = 4096


class Slot:
    """A mappable buffer. It lives until its mapping has ended: the library calls it then."""

    def __init__(self, handle: Handle, capacity: int) -> None:
        self.handle = handle
        self.capacity = capacity
        self.pending = False
        """Whether a mapping is on its way."""
        self._owner: weakref.ref[object] | None = None
        self._size = 0
        self._problem: str | None = None
        self._mapped = False
        self._info = ffi.new("WGPUBufferMapCallbackInfo *")
        self._callback = ffi.callback("void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)", self._ended)
        self._info.mode = lib.WGPUCallbackMode_AllowProcessEvents
        self._info.callback = self._callback

    @property
    def free(self) -> bool:
        """Whether nobody can want what it holds: not while its owner, who has not read it, is alive."""
        return not self.pending and (self._owner is None or self._owner() is None)

    def map(self, owner: object, size: int) -> None:
        """Ask for the first ``size`` bytes, as they are when what was submitted until now has ended."""
        self._owner, self._size, self.pending = weakref.ref(owner), size, True
        lib.wgpuBufferMapAsync(self.handle, int(MapMode.READ), 0, size, self._info[0])

    def take(self, sizes: Iterable[int]) -> tuple[bytes, ...]:
        """The mapped bytes, cut into pieces. The slot is free then."""
        self._owner = None
        if not self._mapped:
            raise EngineError(f"results of the GPU cannot be read: {self._problem}.")
        view = ffi.buffer(lib.wgpuBufferGetConstMappedRange(self.handle, 0, self._size), self._size)
        pieces, offset = [], 0
        for size in sizes:
            pieces.append(view[offset : offset + size])
            offset += size
        self.unmap()
        return tuple(pieces)

    def unmap(self) -> None:
        """Let steps write to the buffer again, whether its contents were taken or not."""
        if self._mapped:
            lib.wgpuBufferUnmap(self.handle)
        self._mapped = False

    def _ended(self, status: int, message: Handle, _first: Handle, _second: Handle) -> None:
        self._mapped = status == lib.WGPUMapAsyncStatus_Success
        self._problem = text(message) or f"status {status}"
        self.pending = False


class Ring:
    """The slots of a device."""

    def __init__(self, device: Handle, errors: Errors) -> None:
        self._device = device
        self._errors = errors
        self._slots: list[Slot] = []

    def slot(self, size: int) -> Slot:
        """A free slot of at least ``size`` bytes. Raises OutOfMemoryError if none can be made."""
        self._slots = [slot for slot in self._slots if slot.capacity <= KEPT_BYTES or not slot.free]
        fitting = [slot for slot in self._slots if slot.capacity >= size and slot.free]
        if fitting:
            slot = min(fitting, key=lambda slot: slot.capacity)
            slot.unmap()
            return slot
        capacity = max(_LEAST_BYTES, 1 << (size - 1).bit_length()) if size <= KEPT_BYTES else size
        descriptor = ffi.new("WGPUBufferDescriptor *")
        descriptor.usage, descriptor.size = int(BufferUsage.MAP_READ | BufferUsage.COPY_DST), capacity
        handle = owned(lib.wgpuDeviceCreateBuffer(self._device, descriptor), "wgpuBufferRelease")
        self._errors.check(f"making a buffer of {capacity} bytes to read results")
        self._slots.append(Slot(handle, capacity))
        return self._slots[-1]
