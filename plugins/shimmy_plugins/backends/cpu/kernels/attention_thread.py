"""What the attention kernels have in common: what they are made for, a thread's memory and its queries."""

from __future__ import annotations

from dataclasses import dataclass

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Work, address
from shimmy_plugins.backends.cpu.kernels.paged import PAGED_FIELDS, Sequence
from shimmy_plugins.backends.cpu.kernels.softmax import Attend, Queries, Rules, States, Tile, state_floats
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS, HeadLayout
from shimmy_plugins.backends.cpu.memory import round_up
from shimmy_plugins.backends.cpu.values import F32, I32, I64, Pointer, Value

FIELDS = (
    *PAGED_FIELDS, "items", "count", "results", "q", "q_stride", "y", "y_stride", "scale", "window",
    "softcap", "scratch", "scratch_stride",
)  # fmt: skip

#: Queries of a tile at most: their state stays in the processor's cache.
_MOST_QUERIES = 96


@dataclass(frozen=True, slots=True)
class Variant:
    """What a kernel is made for: ``sharing`` query heads share a head of keys and values."""

    layout: HeadLayout
    sharing: int
    accumulators: int
    windowed: bool
    capped: bool

    @property
    def tile(self) -> Tile:
        return Tile.largest(self.accumulators)

    @property
    def tiles(self) -> list[Tile]:
        """Those that together compute one row: as even as can be."""
        most, vectors = self.tile.queries, self.tile.vectors
        parts = -(-self.sharing // most)
        return [Tile((self.sharing + i) // parts, vectors) for i in range(parts)]

    @property
    def unit(self) -> int:
        """Rows that fill the registers."""
        return -(-self.tile.queries // self.sharing)

    @property
    def most_rows(self) -> int:
        """Rows of a tile at most."""
        return max(_MOST_QUERIES // self.sharing // self.unit, 1) * self.unit

    @property
    def most_queries(self) -> int:
        """Queries of a tile at most, with those that fill up its last registers."""
        return round_up(self.most_rows * self.sharing, self.tile.queries)

    def name(self, part: str) -> str:
        layout = self.layout
        words = ["attention", part, layout.kv_type, self.sharing, layout.key_dim, layout.value_dim]
        words += ["window"] * self.windowed + ["cap"] * self.capped
        return "_".join(map(str, [*words, self.accumulators]))


class Workspace:
    """A thread's memory, cut into parts."""

    def __init__(self, variant: Variant) -> None:
        queries, layout = variant.most_queries, variant.layout
        state = queries * state_floats(layout.value_stride)
        sizes = {
            "q": queries * layout.key_dim,
            "states": state,
            "totals": state,
            "weights": variant.tile.queries * BLOCK_TOKENS,
            "scaled": variant.tile.queries * BLOCK_TOKENS,
            "begins": queries,
            "ends": queries,
        }
        self.size = 0
        self._starts: dict[str, int] = {}
        for name, size in sizes.items():
            self._starts[name] = self.size
            self.size += round_up(size)

    def part(self, memory: Pointer, name: str) -> Pointer:
        return memory + self._starts[name]


class Thread:
    """One thread's share of a call: what the three kernels have in common."""

    def __init__(self, e: Emitter, f: Fields, work: Work, variant: Variant) -> None:
        self.e, self.f, self.variant = e, f, variant
        self._workspace = Workspace(variant)
        self._memory = f.pointer("scratch") + work.thread * f.size("scratch_stride")
        self.kv_heads = f.size("kv_heads")
        self.items = f.pointer("items", I32)

    def item(self, number: Value, words: int, word: int) -> Value:
        """A word of an item of the list."""
        return self.items[number * words + word].widen(I64)

    def memory(self, name: str) -> Pointer:
        return self._workspace.part(self._memory, name)

    def states(self, name: str) -> States:
        return States(self.memory(name), self.variant.layout.value_stride)

    def results(self, piece: Value, kv_head: Value) -> States:
        """The states of the queries of a piece at the heads that share ``kv_head``."""
        memory = address(self.e, self.f.count("results"), F32)
        first = (piece * self.kv_heads + kv_head) * self.variant.sharing
        return States(memory, self.variant.layout.value_stride) + first

    def queries(self, states: States) -> Queries:
        begins, ends = (self.memory(name).cast(I32) for name in ("begins", "ends"))
        return Queries(self.memory("q"), begins, ends, states)

    def take(self, index: Value, row: Value, head: Value) -> None:
        """Make a row at a head the query ``index``."""
        e, f, size = self.e, self.f, self.variant.layout.key_dim
        scale = f.float("scale")
        q = f.pointer("q") + (row * f.size("q_stride") + head * size)
        to = self.memory("q") + index * size
        with e.loop(0, size) as i:
            to[i] = q[i] * scale
        end = Sequence(e, f, row).position + 1
        self.memory("ends").cast(I32)[index] = end.narrow(I32)
        self.memory("begins").cast(I32)[index] = self.begin(end).narrow(I32)

    def begin(self, end: Value) -> Value:
        """The first position of a window that ends at a position."""
        if not self.variant.windowed:
            return self.e.int(0)
        window = self.f.size("window")
        return self.e.maximum(end, window) - window

    def attend(self, tile: Tile) -> Attend:
        rules = Rules(self.variant.windowed, self.f.float("softcap") if self.variant.capped else None)
        weights, scaled = self.memory("weights"), self.memory("scaled")
        return Attend(tile, self.variant.layout, rules, weights, scaled)

    def finish(self, states: States, row: Value, head: Value) -> None:
        """Store y of a row at a head."""
        f, size = self.f, self.variant.layout.value_dim
        y = f.pointer("y") + (row * f.size("y_stride") + head * size)
        states.finish(y, size)
