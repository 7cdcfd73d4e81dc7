"""What steps are made of: buffers and ranges of them, pipelines, bind groups, calls, programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from shimmy_plugins.backends.wgpu.native import Handle, lib

#: Workgroups of a call in x, y and z.
Size = tuple[int, int, int]


class Buffer:
    """Memory of the GPU, zeros at first; freed when nothing refers to it any more."""

    def __init__(self, handle: Handle, size: int, label: str, freed: Callable[[Buffer], None]) -> None:
        self.handle = handle
        self.size = size
        self.label = label
        self._freed = freed

    def whole(self) -> Slice:
        return Slice(self, 0, self.size)

    def slice(self, offset: int, size: int) -> Slice:
        return Slice(self, offset, size)

    def destroy(self) -> None:
        """Free the memory now, once submitted steps have ended. Later ones that use it are errors."""
        lib.wgpuBufferDestroy(self.handle)
        self._freed(self)

    def __repr__(self) -> str:
        return f"<{self.label}: {self.size} bytes>"


@dataclass(frozen=True, slots=True)
class Slice:
    """A range of a buffer, in bytes. To be bound, its offset is a multiple of 256, its size of 4."""

    buffer: Buffer
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A compiled shader; ``layout`` is that of its bind group."""

    handle: Handle
    layout: Handle
    label: str


@dataclass(frozen=True, slots=True)
class BindGroup:
    """The buffers of a call, in the order of the shader's bindings."""

    handle: Handle
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One dispatch: a pipeline on a bind group, in x * y * z workgroups; none if one of them is 0."""

    pipeline: Pipeline
    group: BindGroup
    x: int
    y: int = 1
    z: int = 1


class Program:
    """Calls to be submitted again and again.

    ``sizes`` holds the workgroups of each call; entries may be replaced between submits. A call of
    which one is 0 is left out.
    """

    def __init__(self, calls: Iterable[Call]) -> None:
        self.calls = tuple(calls)
        self.sizes: list[Size] = [(call.x, call.y, call.z) for call in self.calls]
        self.handles = [(call.pipeline.handle, call.group.handle) for call in self.calls]


def as_calls(work: Iterable[Call | Program]) -> list[Call]:
    """Each call of ``work``, at the size that it has in its program now."""
    calls: list[Call] = []
    for item in work:
        if isinstance(item, Program):
            sized = zip(item.calls, item.sizes, strict=True)
            calls += [replace(call, x=x, y=y, z=z) for call, (x, y, z) in sized]
        else:
            calls.append(item)
    return calls
