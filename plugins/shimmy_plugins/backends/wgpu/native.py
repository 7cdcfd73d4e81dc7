"""The C interface of wgpu-native, which wgpu-py brings and binds: texts, errors, opening a device.

Its functions are called directly: a step is hundreds of calls, and the classes of wgpu-py take twice
the time. What they return is owned (:func:`owned`): the library frees it when Python forgets it. A
handle that is used after that ends the process, so whatever is used holds what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import get_ident
from typing import Any

from wgpu.backends.wgpu_native import ffi as ffi
from wgpu.backends.wgpu_native import lib as lib

from shimmy.errors import EngineError, OutOfMemoryError

#: An object of the library, or a C value.
Handle = Any

NULL = ffi.NULL
#: Bits of WGPUInstanceBackend (wgpu.h): Vulkan, Metal and D3D12; OpenGL.
MODERN_APIS = 1 << 0 | 1 << 2 | 1 << 3
OPENGL = 1 << 1
#: Features of an adapter that are used where they exist. `mappable-primary-buffers` would slow down
#: cards with memory of their own, and `cooperative-matrix` is offered but cannot be requested.
FEATURES = {
    "subgroup": lib.WGPUNativeFeature_Subgroup,
    "subgroup-barrier": lib.WGPUNativeFeature_SubgroupBarrier,
    "timestamp-query": lib.WGPUFeatureName_TimestampQuery,
    "timestamp-query-inside-encoders": lib.WGPUNativeFeature_TimestampQueryInsideEncoders,
    "timestamp-query-inside-passes": lib.WGPUNativeFeature_TimestampQueryInsidePasses,
}


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """What kernels and layouts have to respect; sizes in bytes."""

    storage_binding: int
    """Largest slice that can be bound."""
    buffer: int
    """Largest buffer."""
    workgroup_memory: int
    invocations: int
    """Most invocations of a workgroup."""
    storage_buffers: int
    """Most bindings of a shader."""
    workgroups: int
    """Most workgroups of a call in each of x, y and z."""


def owned(handle: Handle, release: str) -> Handle:
    """``handle``, given back by the library's function ``release`` when nobody refers to it any more."""
    return ffi.gc(handle, getattr(lib, release))


def text(view: Handle) -> str:
    """The text of a WGPUStringView."""
    if view.data == NULL:
        return ""
    length = -1 if view.length == lib.WGPU_STRLEN else view.length
    return str(ffi.string(view.data, length).decode(errors="replace"))


def set_text(view: Handle, value: str) -> Handle:
    """Let a WGPUStringView be ``value``; returns the memory behind it, to be kept as long as the view."""
    data = value.encode()
    memory = ffi.new("char[]", data)
    view.data, view.length = memory, len(data)
    return memory


def make_instance(apis: int) -> Handle:
    """The library's root object, which knows the adapters of some interfaces."""
    extras, descriptor = ffi.new("WGPUInstanceExtras *"), ffi.new("WGPUInstanceDescriptor *")
    extras.chain.sType = lib.WGPUSType_InstanceExtras
    extras.backends = apis
    descriptor.nextInChain = ffi.addressof(extras, "chain")
    return owned(lib.wgpuCreateInstance(descriptor), "wgpuInstanceRelease")


def enumerate_adapters(instance: Handle) -> list[Handle]:
    count = lib.wgpuInstanceEnumerateAdapters(instance, NULL, NULL)
    handles = ffi.new("WGPUAdapter[]", count)
    lib.wgpuInstanceEnumerateAdapters(instance, NULL, handles)
    return [owned(handle, "wgpuAdapterRelease") for handle in handles]


class Errors:
    """What the library reports of a device. It does so while a call runs: the one at fault, or a poll.

    So what is reported in a thread is of that thread's calls.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost: str | None = None
        self._reported: dict[int, list[tuple[int, str]]] = {}
        """By thread."""
        self._on_lost = ffi.callback(
            "void(WGPUDevice const *, WGPUDeviceLostReason, WGPUStringView, void *, void *)", self._lose
        )
        self._on_error = ffi.callback(
            "void(WGPUDevice const *, WGPUErrorType, WGPUStringView, void *, void *)", self._report
        )

    def install(self, descriptor: Handle) -> None:
        """Become the one that a device to be made reports to; must outlive it."""
        descriptor.deviceLostCallbackInfo.mode = lib.WGPUCallbackMode_AllowSpontaneous
        descriptor.deviceLostCallbackInfo.callback = self._on_lost
        descriptor.uncapturedErrorCallbackInfo.callback = self._on_error

    def check(self, doing: str) -> None:
        """Raise what was reported of this thread's calls since its last check.

        Raises:
            OutOfMemoryError: the device has no memory left.
            EngineError: the device is gone, or refused what was asked of it.
        """
        if self.lost is not None:
            raise EngineError(
                f"the GPU {self.name} was lost while {doing}: {self.lost}.",
                hint="Its driver may have been reset or updated; the engine starts anew.",
            )
        if reported := self._reported.pop(get_ident(), None):
            kind, message = reported[0]
            if kind == lib.WGPUErrorType_OutOfMemory:
                raise OutOfMemoryError(f"the GPU {self.name} has no memory left, {doing}: {message}")
            raise EngineError(f"the GPU {self.name} failed, {doing}: {message}")

    def _lose(self, _device: Handle, reason: int, message: Handle, _first: Handle, _second: Handle) -> None:
        if reason != lib.WGPUDeviceLostReason_Destroyed:
            self.lost = text(message) or "no reason given"

    def _report(self, _device: Handle, kind: int, message: Handle, _first: Handle, _second: Handle) -> None:
        self._reported.setdefault(get_ident(), []).append((kind, text(message).strip()))


def features_of(adapter: Handle) -> tuple[str, ...]:
    """Those of :data:`FEATURES` that an adapter has."""
    return tuple(name for name, number in FEATURES.items() if lib.wgpuAdapterHasFeature(adapter, number))


def limits_of(adapter: Handle) -> GpuLimits:
    limits, _memory = _all_limits(adapter)
    return GpuLimits(
        storage_binding=limits.maxStorageBufferBindingSize,
        buffer=limits.maxBufferSize,
        workgroup_memory=limits.maxComputeWorkgroupStorageSize,
        invocations=limits.maxComputeInvocationsPerWorkgroup,
        storage_buffers=limits.maxStorageBuffersPerShaderStage,
        workgroups=limits.maxComputeWorkgroupsPerDimension,
    )


def _all_limits(adapter: Handle) -> tuple[Handle, Handle]:
    """The WGPULimits of an adapter, and the memory that belongs to it."""
    limits, native = ffi.new("WGPULimits *"), ffi.new("WGPUNativeLimits *")
    native.chain.sType = lib.WGPUSType_NativeLimits
    limits.nextInChain = ffi.addressof(native, "chain")
    if lib.wgpuAdapterGetLimits(adapter, limits) != lib.WGPUStatus_Success:
        raise EngineError("a GPU adapter does not tell its limits.")
    return limits, native


def open_device(instance: Handle, adapter: Handle, errors: Errors) -> Handle:
    """A device with all that the adapter allows of :data:`FEATURES` and limits.

    Raises:
        EngineError: the driver refuses.
    """
    numbers = [FEATURES[name] for name in features_of(adapter)]
    features = ffi.new("WGPUFeatureName[]", numbers)
    limits, _native = _all_limits(adapter)
    descriptor = ffi.new("WGPUDeviceDescriptor *")
    descriptor.requiredFeatureCount = len(numbers)
    descriptor.requiredFeatures = features
    descriptor.requiredLimits = limits
    errors.install(descriptor)
    answers: list[tuple[Handle, str]] = []

    def answered(_status: int, device: Handle, message: Handle, _first: Handle, _second: Handle) -> None:
        answers.append((device, text(message)))

    called = ffi.callback(
        "void(WGPURequestDeviceStatus, WGPUDevice, WGPUStringView, void *, void *)", answered
    )
    callback = ffi.new("WGPURequestDeviceCallbackInfo *")
    callback.mode = lib.WGPUCallbackMode_AllowProcessEvents
    callback.callback = called
    lib.wgpuAdapterRequestDevice(adapter, descriptor, callback[0])
    lib.wgpuInstanceProcessEvents(instance)
    device, message = answers[0] if answers else (NULL, "no answer")
    if device == NULL:
        raise EngineError(f"the GPU {errors.name} cannot be opened: {message}.")
    return owned(device, "wgpuDeviceRelease")
