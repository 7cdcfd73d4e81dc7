"""A GPU by the settings: which one, and how much of its memory.

WebGPU does not tell what is free. Vulkan's drivers do, through its loader, which is asked here besides;
where the GPU shares the machine's memory, that counts as well. Of other cards nothing is known.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_char, c_int, c_uint32, c_uint64, c_void_p
from typing import Any, ClassVar

from shimmy.engine.machine import available_memory
from shimmy_plugins.backends.wgpu.adapters import AdapterFacts, choose_adapter
from shimmy_plugins.backends.wgpu.device import Gpu

#: Share of the free memory that is taken; drivers need some for themselves.
AUTO_SHARE = 0.9

#: Heaps of memory of its own, in VkMemoryHeapFlagBits.
_DEVICE_LOCAL = 1
_LOADERS = {"win32": "vulkan-1.dll", "linux": "libvulkan.so.1"}


class _ApplicationInfo(Structure):
    _fields_: ClassVar = [
        *(("type", c_int), ("next", c_void_p), ("name", c_void_p), ("version", c_uint32)),
        *(("engine", c_void_p), ("engine_version", c_uint32), ("api_version", c_uint32)),
    ]


class _InstanceInfo(Structure):
    _fields_: ClassVar = [
        *(
            ("type", c_int),
            ("next", c_void_p),
            ("flags", c_uint32),
            ("application", POINTER(_ApplicationInfo)),
        ),
        *(("layers", c_uint32), ("layer_names", c_void_p)),
        *(("extensions", c_uint32), ("extension_names", c_void_p)),
    ]


class _Properties(Structure):
    """The beginning of VkPhysicalDeviceProperties; what follows is longer than needed."""

    _fields_: ClassVar = [
        *(("api", c_uint32), ("driver", c_uint32), ("vendor", c_uint32), ("device", c_uint32)),
        ("rest", c_char * 2048),
    ]


class _Heap(Structure):
    _fields_: ClassVar = [("size", c_uint64), ("flags", c_uint32)]


class _Budget(Structure):
    """VkPhysicalDeviceMemoryBudgetPropertiesEXT; stays zero where the driver does not know it."""

    _fields_: ClassVar = [
        *(("type", c_int), ("next", c_void_p)),
        *(("budget", c_uint64 * 16), ("usage", c_uint64 * 16)),
    ]


class _Memory(Structure):
    """VkPhysicalDeviceMemoryProperties2."""

    _fields_: ClassVar = [
        *(("type", c_int), ("next", POINTER(_Budget))),
        *(("types", c_uint32), ("kinds", c_uint32 * 2 * 32)),
        *(("heap_count", c_uint32), ("heaps", _Heap * 16)),
    ]


def open_gpu(gpu: str = "auto", gpu_memory: int | None = None) -> Gpu:
    """The GPU that the settings of these names ask for.

    Raises:
        ConfigError: there is none that can be taken.
        EngineError: its driver refuses.
    """
    adapter, _ = choose_adapter(gpu)
    if gpu_memory is None and (free := free_memory(adapter.facts)) is not None:
        gpu_memory = int(free * AUTO_SHARE)
    return Gpu(adapter, gpu_memory)


def free_memory(facts: AdapterFacts) -> int | None:
    """Bytes that can be taken on an adapter, as far as anybody tells; None: nobody does."""
    own = _free_on_vulkan(facts) if facts.api == "Vulkan" else None
    if facts.kind in ("integrated", "software"):
        machine = available_memory()
        return machine if own is None else min(own, machine)
    return own


def _free_on_vulkan(facts: AdapterFacts) -> int | None:
    try:
        vulkan = ctypes.CDLL(_LOADERS.get(sys.platform, "libvulkan.dylib"))
        with _instance(vulkan) as instance:
            equal = [
                device
                for device in _devices(vulkan, instance)
                if _model(vulkan, device) == (facts.vendor_id, facts.device_id)
            ]
            return _free_on(vulkan, equal[facts.ordinal]) if facts.ordinal < len(equal) else None
    except (OSError, AttributeError):
        return None


@contextmanager
def _instance(vulkan: Any) -> Iterator[c_void_p]:
    application = _ApplicationInfo(type=0, api_version=1 << 22 | 1 << 12)
    info = _InstanceInfo(type=1, application=ctypes.pointer(application))
    instance = c_void_p()
    if vulkan.vkCreateInstance(byref(info), None, byref(instance)):
        raise OSError("there is no Vulkan 1.1")
    try:
        yield instance
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _devices(vulkan: Any, instance: c_void_p) -> list[c_void_p]:
    count = c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, byref(count), None)
    handles = (c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, byref(count), handles)
    return [c_void_p(handle) for handle in handles]


def _model(vulkan: Any, device: c_void_p) -> tuple[int, int]:
    properties = _Properties()
    vulkan.vkGetPhysicalDeviceProperties(device, byref(properties))
    return properties.vendor, properties.device


def _free_on(vulkan: Any, device: c_void_p) -> int:
    """Of the largest heap of its own: the budget the driver gives the process, less what it has."""
    budget = _Budget(type=1000237000)
    memory = _Memory(type=1000059006, next=ctypes.pointer(budget))
    vulkan.vkGetPhysicalDeviceMemoryProperties2(device, byref(memory))
    heaps = range(memory.heap_count)
    own = [heap for heap in heaps if memory.heaps[heap].flags & _DEVICE_LOCAL] or heaps
    largest = max(own, key=lambda heap: memory.heaps[heap].size)
    if budget.budget[largest]:
        return max(int(budget.budget[largest]) - int(budget.usage[largest]), 0)
    return int(memory.heaps[largest].size)
