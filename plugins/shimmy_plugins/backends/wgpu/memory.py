"""Memory of one phase's values: rows of floats, used again once nobody reads them any more."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from shimmy_plugins.backends.wgpu.device import Gpu, Slice
from shimmy_plugins.backends.wgpu.kernel import Columns

FLOAT = 4


@dataclass(frozen=True, slots=True)
class Rows:
    """A value: in each row of ``stride`` floats, ``width`` of them from ``offset`` on."""

    memory: Slice
    stride: int
    offset: int
    width: int

    @property
    def columns(self) -> Columns:
        """Its place in each row."""
        return Columns(self.width, self.stride, self.offset)

    def part(self, offset: int, width: int) -> Rows:
        return Rows(self.memory, self.stride, self.offset + offset, width)


class Activations:
    """Hands out memory for values, in buffers of their own: work waits for work by the buffer."""

    def __init__(self, gpu: Gpu, label: str) -> None:
        self._gpu = gpu
        self._label = label
        self._free: dict[int, list[Slice]] = {}
        self._holders: Counter[Slice] = Counter()

    def restart(self) -> None:
        """Another program begins, which never runs beside those before: all their memory is free for it."""
        for memory in +self._holders:
            self._free[memory.size].append(memory)
        self._holders.clear()

    def take(self, size: int) -> Slice:
        """``size`` bytes, whose content nobody wants; held once."""
        free = self._free.setdefault(size, [])
        memory = free.pop() if free else self._gpu.buffer(size, f"{self._label} activations").whole()
        self._holders[memory] += 1
        return memory

    def hold(self, memory: Slice) -> None:
        """Another value lies in it."""
        self._holders[memory] += 1

    def release(self, memory: Slice) -> None:
        """One of its values is not read any more; memory that was not taken here is left alone."""
        if memory not in self._holders:
            return
        self._holders[memory] -= 1
        if not self._holders[memory]:
            self._free[memory.size].append(memory)
