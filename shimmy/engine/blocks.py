"""Hands out KV block ids. The plan owns the memory behind them and is told how many are in use."""

from __future__ import annotations

import heapq


class BlockPool:
    """Ids 0 … capacity-1, the lowest free one first, so that unused memory is at the end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free: list[int] = []
        self._next = 0

    @property
    def used(self) -> int:
        return self._next - len(self._free)

    @property
    def available(self) -> int:
        return self.capacity - self.used

    @property
    def high_water(self) -> int:
        """One more than the highest id in use."""
        return self._next

    def take(self) -> int:
        """An id that is free; the caller has checked ``available``."""
        if self._free:
            return heapq.heappop(self._free)
        if self._next == self.capacity:
            raise IndexError("no KV block is free")
        self._next += 1
        return self._next - 1

    def give_back(self, ids: list[int]) -> None:
        for block in ids:
            heapq.heappush(self._free, block)
        if self.used == 0:
            self._free.clear()
            self._next = 0
            return
        # Lower the mark past free ids at the end; the heap may hold them anywhere.
        free = set(self._free)
        while self._next - 1 in free:
            self._next -= 1
            free.remove(self._next)
        if len(free) != len(self._free):
            self._free = sorted(free)
