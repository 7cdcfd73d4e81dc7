"""attention: softmax attention of each row and head over the positions up to the row's own.

Queries that read the same keys and values are taken together, so that what is loaded is used often:
heads that share a head of keys and values, in a few adjacent rows of a sequence. How many has no
effect on a query's bits: the order of its additions is that of positions and dimensions alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import I32, Branches, Emitter, Value
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels import kv_append
from shimmy_plugins.backends.cpu.kernels.paged import PAGED_FIELDS, Sequence, paged_fields
from shimmy_plugins.backends.cpu.kernels.softmax import CHAINS, Cached, Query, attend
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import round_up

_FIELDS = (
    *PAGED_FIELDS, "kv_heads", "q", "q_stride", "y", "y_stride", "scale",
    "scores", "scores_stride",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Heads:
    """The sizes a kernel is made for: ``sharing`` query heads share a head of keys and values."""

    sharing: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class Tile:
    """An item of work: some adjacent rows at some heads that share."""

    rows: int
    heads: int

    @classmethod
    def largest(cls, sharing: int, accumulators: int) -> Tile:
        """The most queries whose sums fit so many accumulators."""
        queries = accumulators // CHAINS
        heads = max(n for n in range(1, queries + 1) if sharing % n == 0)
        return cls(queries // heads, heads)


@cache
def kernel(heads: Heads, accumulators: int) -> Kernel:
    """The kernel for heads of some sizes, where so many accumulators fit the registers."""
    large = Tile.largest(heads.sharing, accumulators)

    def body(e: Emitter, f: Fields, work: Work) -> None:
        deal = _Deal(e, f, work, heads, accumulators)
        # Where there are few items, they are made smaller, so that every thread has some.
        with deal.is_enough(large) as (enough, few):
            with enough:
                deal(large)
            with few, deal.is_enough(Tile(1, large.heads)) as (enough, few):
                with enough:
                    deal(Tile(1, large.heads))
                with few:
                    deal(Tile(1, 1))

    return Kernel(
        f"attention_{heads.sharing}_{heads.key_dim}_{heads.value_dim}_{accumulators}", _FIELDS, body
    )


class _Deal:
    """Deals items to threads."""

    def __init__(self, e: Emitter, f: Fields, work: Work, heads: Heads, accumulators: int) -> None:
        self._e, self._f, self._work = e, f, work
        self._heads, self._accumulators = heads, accumulators
        self._rows = f.count("rows")

    def is_enough(self, tile: Tile) -> Branches:
        """Branches on whether tiles of this size are at least two for each thread."""
        return self._e.when_else(self._work.threads * 2 < self._count(tile) + 1)

    def __call__(self, tile: Tile) -> None:
        """Emit the items a thread claims."""
        groups = self._groups(tile)
        with self._work.claim(self._count(tile)) as item:
            first, head = item // groups * tile.rows, item % groups * tile.heads
            if tile.rows == 1:
                self._attend(first, head, tile)
            else:
                self._attend_tile(first, head, tile)

    def _attend_tile(self, first: Value, head: Value, tile: Tile) -> None:
        """All rows of a tile together, or one by one where they are not all there or of one sequence."""
        end = self._e.minimum(first + tile.rows, self._rows)
        slots = self._f.pointer("slots", I32)
        is_whole = (first + tile.rows).equals(end) & slots[first].equals(slots[end - 1])
        with self._e.when_else(is_whole) as (whole, parts):
            with whole:
                self._attend(first, head, tile)
            with parts, self._e.loop(first, end) as row:
                self._attend(row, head, Tile(1, tile.heads))

    def _groups(self, tile: Tile) -> Value:
        """Tiles side by side in a row."""
        return self._f.size("kv_heads") * (self._heads.sharing // tile.heads)

    def _count(self, tile: Tile) -> Value:
        return (self._rows + (tile.rows - 1)) // tile.rows * self._groups(tile)

    def _attend(self, first: Value, head: Value, tile: Tile) -> None:
        e, f, heads = self._e, self._f, self._heads
        sequence, kv_head = Sequence(e, f, first), head // heads.sharing
        stride = round_up(heads.value_dim)
        cached = Cached(
            lambda block: sequence.keys(block) + kv_head * (heads.key_dim * BLOCK_TOKENS),
            lambda block: sequence.values(block) + kv_head * (BLOCK_TOKENS * stride),
            heads.key_dim,
            heads.value_dim,
        )
        scores = f.pointer("scores") + self._work.thread * f.size("scores_stride")
        queries = [
            Query(
                f.pointer("q") + ((first + r) * f.size("q_stride") + (head + h) * heads.key_dim),
                f.pointer("y") + ((first + r) * f.size("y_stride") + (head + h) * heads.value_dim),
                sequence.position + (r + 1),
            )
            for r in range(tile.rows)
            for h in range(tile.heads)
        ]
        attend(e, queries, cached, f.float("scale"), scores, self._accumulators)


def lower(low: Lowering, node: Node) -> None:
    """Record the calls for a node: append, then attend."""
    q, k, v = (low.input(node, i) for i in range(3))
    (heads, key_dim), (kv_heads, _), (_, value_dim) = (low.shape(i) for i in node.inputs)
    layer = low.cache.layer(node.attrs["layer"], kv_heads, key_dim, value_dim)
    kv_append.append(low, layer, k, v)
    y = low.output(node)
    context = round_up(low.limits.max_ctx, BLOCK_TOKENS)
    scores, scores_stride = low.scratch(context * (low.target.accumulators // CHAINS))
    low.call(
        kernel(Heads(heads // kv_heads, key_dim, value_dim), low.target.accumulators),
        reads=[q, low.cache],
        writes=[y],
        **paged_fields(low, layer, y.rows),
        kv_heads=kv_heads,
        q=q.array,
        q_stride=q.stride,
        y=y.array,
        y_stride=y.stride,
        scale=float(node.attrs["scale"]),
        scores=scores,
        scores_stride=scores_stride,
    )
