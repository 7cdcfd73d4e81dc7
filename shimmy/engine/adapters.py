"""The adapters in a plan: who uses which, and when one's place is free again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shimmy.engine.plan import Plan
from shimmy.engine.protocol import MOST_MIXED
from shimmy.errors import EngineError, RequestError
from shimmy.graph.batch import LoraRows

if TYPE_CHECKING:
    from shimmy.graph.lora import Terms

#: (place in the plan, factor) of each adapter of a sequence.
Places = tuple[tuple[int, float], ...]


@dataclass(slots=True)
class _Held:
    place: int
    users: int = 0
    leaves: bool = False
    """Whether it is given up when its last user goes."""


class AdapterShelf:
    """Adapters by the id the server gave each version; a sequence keeps the version it began with."""

    def __init__(self, plan: Plan, places: int) -> None:
        self._plan = plan
        self._free = list(range(places))
        self._held: dict[int, _Held] = {}

    def put(self, adapter: int, terms: Terms) -> None:
        """Load an adapter. EngineError if there is no place, OutOfMemoryError if it does not fit."""
        if adapter in self._held:
            raise EngineError(f"adapter {adapter} was loaded twice.")
        if not self._free:
            raise EngineError(
                f"all {len(self._held)} places for adapters are taken.", hint="Raise max_adapters."
            )
        self._plan.put_adapter(self._free[0], terms)
        self._held[adapter] = _Held(self._free.pop(0))

    def forget(self, adapter: int) -> None:
        """Unload an adapter once nobody uses it; no new sequence gets it. Unknown ids are ignored."""
        if held := self._held.get(adapter):
            held.leaves = True
            self._leave(adapter, held)

    def take(self, wanted: Iterable[tuple[int, float]]) -> Places:
        """Places and factors of a new sequence's adapters, which are kept until it gives them back.

        Raises:
            EngineError: one is not loaded.
            RequestError: there are too many, or one twice.
        """
        wanted = list(wanted)
        ids = [adapter for adapter, _ in wanted]
        if len(ids) > MOST_MIXED or len(set(ids)) < len(ids):
            raise RequestError(
                f"{len(ids)} adapters are wanted; expected at most {MOST_MIXED} different ones.", param="lora"
            )
        for adapter in ids:
            if adapter not in self._held or self._held[adapter].leaves:
                raise EngineError(f"adapter {adapter} is not loaded; send the request again.")
        for adapter in ids:
            self._held[adapter].users += 1
        return tuple(sorted((self._held[adapter].place, scale) for adapter, scale in wanted))

    def give_back(self, wanted: Iterable[tuple[int, float]]) -> None:
        """A sequence that took these adapters has ended."""
        for adapter, _ in wanted:
            held = self._held[adapter]
            held.users -= 1
            self._leave(adapter, held)

    def _leave(self, adapter: int, held: _Held) -> None:
        if held.leaves and not held.users:
            del self._held[adapter]
            self._plan.put_adapter(held.place, None)
            self._free.append(held.place)


def lora_rows(parts: Sequence[tuple[int, Places]]) -> LoraRows | None:
    """The entries of a step of sequences, each with a number of rows; None if no one has an adapter."""
    entries: list[tuple[int, int, float]] = []
    start = 0
    for count, adapters in parts:
        for place, scale in adapters:
            entries += ((place, row, scale) for row in range(start, start + count))
        start += count
    if not entries:
        return None
    places, rows, scales = zip(*sorted(entries), strict=True)
    return LoraRows(np.array(rows, np.int32), np.array(places, np.int32), np.array(scales, np.float32))
