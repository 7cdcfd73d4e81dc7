"""The order in which experts compute: the rows that have chosen one expert, then those of the next.

An *entry* is a row of the step at one of its chosen experts. A routing gives each entry a *place*, by
expert; those of an expert begin at a whole panel, where matrix products begin to take rows. So the
weights of an expert are read once in a step for all rows that have chosen it, and no others' are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.quantize import PANEL, RECORD
from shimmy_plugins.backends.cpu.layouts import STRIP_COLUMNS
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import aligned, aligned_floats, round_up
from shimmy_plugins.backends.cpu.program import Tensor
from shimmy_plugins.backends.cpu.values import I32, I64, Pointer, Value

_FIELDS = (
    "rows", "used", "experts", "chosen", "chosen_stride", "next", "segments", "count", "entries", "places",
)  # fmt: skip


class Gathered:
    """Memory for the input of experts, place by place, of one pair of nodes at a time."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = array
        """(places, columns) of floats, or (panels, blocks of columns, PANEL) of records."""
        self.nodes = (-1, -1)
        """Whose results it holds: the input's, and the choice's."""


class Routing:
    """Memory for the order of one node's choices at a time."""

    def __init__(self, rows: int, used: int, experts: int) -> None:
        entries = rows * used
        # Each expert's last panel may have a single entry.
        self._panels = min(entries, entries // PANEL + experts)
        self.next = np.zeros(experts, np.int64)
        """The place of each expert's next entry, while places are given."""
        self.segments = np.zeros((min(entries, experts), 3), np.int32)
        """(expert, first place, number of entries) of each expert that somebody has chosen."""
        self.count = np.zeros(1, np.int64)
        """How many segments there are."""
        self.entries = np.zeros((self._panels * PANEL, 2), np.int32)
        """(row, which of its experts) by place."""
        self.places = np.zeros((rows, used), np.int32)
        self.node = -1
        """Whose result it orders."""
        self._gathered: dict[tuple[str, int], Gathered] = {}

    @property
    def most_places(self) -> int:
        return len(self.entries)

    def floats(self, columns: int) -> Gathered:
        """Memory for rows of so many columns, padded with zeros."""
        if ("floats", columns) not in self._gathered:
            array = aligned_floats(self.most_places, round_up(columns, STRIP_COLUMNS))
            self._gathered["floats", columns] = Gathered(array)
        return self._gathered["floats", columns]

    def records(self, blocks: int) -> Gathered:
        """Memory for rows of so many records."""
        if ("records", blocks) not in self._gathered:
            array = aligned((self._panels, blocks, PANEL), RECORD)
            self._gathered["records", blocks] = Gathered(array)
        return self._gathered["records", blocks]


def _body(e: Emitter, f: Fields, work: Work) -> None:
    """Counts entries by expert, gives each expert its places, then each entry."""
    following = f.pointer("next", I64)
    with work.claim(e.int(1)):
        with e.loop(0, f.size("experts")) as expert:
            following[expert] = e.int(0)
        with e.loop(0, f.count("rows")) as row, e.loop(0, f.size("used")) as number:
            expert = expert_of(e, f, row, number)
            following[expert] = following[expert] + 1
        _give_experts_places(e, f, following)
        with e.loop(0, f.count("rows")) as row, e.loop(0, f.size("used")) as number:
            expert = expert_of(e, f, row, number)
            place = following[expert]
            following[expert] = place + 1
            f.pointer("places", I32)[row * f.size("used") + number] = place.narrow(I32)
            for word, value in enumerate((row, number)):
                f.pointer("entries", I32)[place * 2 + word] = value.narrow(I32)


def _give_experts_places(e: Emitter, f: Fields, following: Pointer) -> None:
    segments, place = (e.variable(e.int(0)) for _ in range(2))
    with e.loop(0, f.size("experts")) as expert:
        count = following[expert]
        following[expert] = place.value
        with e.when(e.int(0) < count):
            for word, value in enumerate((expert, place.value, count)):
                f.pointer("segments", I32)[segments.value * 3 + word] = value.narrow(I32)
            segments.value = segments.value + 1
            place.value = place.value + (count + (PANEL - 1)) // PANEL * PANEL
    f.pointer("count", I64)[0] = segments.value


def expert_of(e: Emitter, f: Fields, row: Value, number: Value) -> Value:
    """The number of a chosen expert; whatever is chosen, memory of an expert is meant."""
    chosen = f.pointer("chosen")[row * f.size("chosen_stride") + number]
    most = (f.size("experts") - 1).to_float()
    # In this order NaN becomes 0.
    return e.minimum(e.maximum(e.coerce(0.0, chosen.type), chosen), most).to_integer().widen(I64)


KERNEL = Kernel("routing", _FIELDS, _body)


def routing(low: Lowering, chosen: Tensor, node: int, used: int, experts: int) -> Routing:
    """The order of what ``node`` has chosen; recorded once for nodes in a row that share it."""
    found = low.routings.get((used, experts))
    if found is None:
        found = low.routings[used, experts] = Routing(low.limits.step_tokens, used, experts)
    if found.node != node:
        found.node = node
        low.call(
            KERNEL,
            reads=[chosen],
            writes=[found],
            rows=chosen.rows,
            used=used,
            experts=experts,
            chosen=chosen.array,
            chosen_stride=chosen.stride,
            next=found.next,
            segments=found.segments,
            count=found.count,
            entries=found.entries,
            places=found.places,
        )
    return found
