"""Softmax attention of some queries over one block of 32 positions, with a running maximum.

Nothing that grows with the context is kept: a query's state is its largest score so far, the sum of
exp(score - largest), and the sum of values weighted by it; both sums shrink when the maximum grows
(Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). A query's order of
additions is that of dimensions, positions and blocks alone: what it is computed with has no effect
on its bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from shimmy.graph.kv import SCALE_GROUP
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import exp, max_lanes, sum_lanes, tanh
from shimmy_plugins.backends.cpu.kernels.cached import CachedHead
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS, HeadLayout
from shimmy_plugins.backends.cpu.values import I32, I64, LANES, Operand, Pointer, Value

#: Below every score; finite, so that the difference to another is a number.
_LOWEST = -3.0e38


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries computed together, and vectors of positions or dimensions of each: together as many
    running sums as fit the registers."""

    queries: int
    vectors: int

    @classmethod
    def largest(cls, accumulators: int) -> Tile:
        # With two vectors a number loaded serves twice; narrow registers hold only one.
        vectors = 2 if accumulators >= LANES else 1
        return cls(accumulators // vectors, vectors)


class States:
    """States of queries in memory: (queries, floats).

    The floats are the weighted sum of values, the sum of weights in 16 parts, by lane, and the
    largest score, in all lanes.
    """

    __slots__ = ("at", "value_stride")

    def __init__(self, at: Pointer, value_stride: int) -> None:
        self.at = at
        self.value_stride = value_stride

    @property
    def floats(self) -> int:
        """Of one query."""
        return state_floats(self.value_stride)

    def __add__(self, queries: Operand) -> States:
        return States(self.at + self.at.emitter.coerce(queries, I64) * self.floats, self.value_stride)

    @property
    def sums(self) -> Value:
        return self.at.vector(self.value_stride)

    @sums.setter
    def sums(self, sums: Value) -> None:
        self.at[self.value_stride] = sums

    @property
    def largest(self) -> Value:
        return self.at.vector(self.value_stride + LANES)

    @largest.setter
    def largest(self, largest: Value) -> None:
        self.at[self.value_stride + LANES] = largest

    def reset(self) -> None:
        """The first query has seen nothing."""
        e = self.at.emitter
        for at in self._sums():
            self.at[at] = e.floats(0.0)
        self.largest = e.floats(_LOWEST)

    def shrink(self, factor: Value) -> None:
        """Multiply both sums of the first query."""
        for at in self._sums():
            self.at[at] = self.at.vector(at) * factor

    def add(self, other: States) -> None:
        """Add what the first query of ``other`` has seen to what this one has."""
        e = self.at.emitter
        largest = e.maximum(self.largest, other.largest)
        mine, theirs = exp(self.largest - largest), exp(other.largest - largest)
        for at in self._sums():
            self.at[at] = e.fma(other.at.vector(at), theirs, self.at.vector(at) * mine)
        self.largest = largest

    def finish(self, y: Pointer, value_dim: int) -> None:
        """Store the weighted mean of the values that the first query has seen."""
        total = sum_lanes(self.sums).splat()
        for at in range(0, value_dim, LANES):
            y.put_first(min(LANES, value_dim - at), self.at.vector(at) / total, at)

    def _sums(self) -> range:
        """The vectors of both sums."""
        return range(0, self.value_stride + LANES, LANES)


def state_floats(value_stride: int) -> int:
    """Floats of a query's state."""
    return value_stride + 2 * LANES


class Queries(NamedTuple):
    """Adjacent queries in memory."""

    q: Pointer
    """(queries, key_dim), multiplied by the scale already."""
    begins: Pointer
    """The first position that each sees."""
    ends: Pointer
    """The position behind the last that each sees."""
    states: States


class Rules(NamedTuple):
    """What else decides on scores."""

    windowed: bool
    """Whether queries may see less than all before them."""
    softcap: Value | None
    """Scores become softcap * tanh(score / softcap)."""


class Block(NamedTuple):
    """Some positions of the context, and those that come next."""

    head: CachedHead
    start: Value
    seen: Value
    """How many of them anyone sees: what lies behind them is not read, it may be anything."""
    ahead: CachedHead | None
    """Fetched meanwhile, so that nobody waits for memory."""


@dataclass(frozen=True, slots=True)
class Attend:
    """Emits the work of a tile of queries; ``weights`` and ``scaled`` are memory of 32 floats for each."""

    tile: Tile
    layout: HeadLayout
    rules: Rules
    weights: Pointer
    scaled: Pointer

    def __call__(self, e: Emitter, queries: Queries, block: Block) -> None:
        """Add the block's positions to the queries' states."""
        self._scores(e, queries, block)
        self._exponentials(e, queries, block)
        self._values(e, queries, block)

    def _scores(self, e: Emitter, queries: Queries, block: Block) -> None:
        """weights = q . k, query by query"""
        size, width = self.layout.key_dim, self.tile.vectors * LANES
        group = SCALE_GROUP if self.layout.scaled else size
        for half, first in product(range(0, BLOCK_TOKENS, width), range(0, size, group)):
            parts = range(half, half + width, LANES)
            sums = {(i, part): e.variable(e.floats(0.0)) for i in range(self.tile.queries) for part in parts}
            with e.loop(first, min(first + group, size)) as dimension:
                keys = {part: block.head.key(dimension, part) for part in parts}
                if block.ahead and half == 0:
                    block.ahead.prefetch_key(dimension)
                for i in range(self.tile.queries):
                    number = queries.q[dimension + i * size].splat()
                    for part in parts:
                        sums[i, part].value = e.fma(keys[part], number, sums[i, part].value)
            for (i, part), total in sums.items():
                at, score = i * BLOCK_TOKENS + part, total.value
                if self.layout.scaled:
                    before = self.weights.vector(at) if first else e.floats(0.0)
                    score = e.fma(score, block.head.key_scale(first, part), before)
                self.weights[at] = score

    def _exponentials(self, e: Emitter, queries: Queries, block: Block) -> None:
        """weights = exp(score - largest), 0 where a query does not see; the sums take note of it."""
        start = block.start.narrow(I32).splat() + e.lane_numbers()
        halves = range(0, BLOCK_TOKENS, LANES)
        with e.loop(0, self.tile.queries) as i:
            weights, states = self.weights + i * BLOCK_TOKENS, queries.states + i
            begin, end = queries.begins[i].splat(), queries.ends[i].splat()
            scores = [self._seen(e, weights.vector(half), start + half, begin, end) for half in halves]
            most = e.variable(states.largest)
            above = e.maximum(*scores)
            # Mostly false, once a few blocks were seen; and the sums of no use multiplied by 1.
            with e.when((most.value < above).any()):
                largest = max_lanes(above).splat()
                states.shrink(exp(most.value - largest))
                states.largest = most.value = largest
            for half, score in zip(halves, scores, strict=True):
                weight = exp(score - most.value)
                weights[half] = weight
                states.sums = states.sums + weight

    def _seen(self, e: Emitter, score: Value, positions: Value, begin: Value, end: Value) -> Value:
        """The scores of 16 positions, minus infinity where the query does not see."""
        nothing = e.floats(float("-inf"))
        if self.rules.softcap is not None:
            cap = self.rules.softcap.splat()
            score = tanh(score / cap) * cap
        score = e.select(positions < end, score, nothing)
        return e.select(positions < begin, nothing, score) if self.rules.windowed else score

    def _values(self, e: Emitter, queries: Queries, block: Block) -> None:
        """values += weights . v, some vectors of dimensions at a time"""
        stride, width = self.layout.value_stride, self.tile.vectors * LANES
        state = queries.states.at
        for first in range(0, stride, width):
            dimensions = range(first, min(first + width, stride), LANES)
            weights = self._scaled(block, first) if self.layout.scaled else self.weights
            places = {
                (i, at): i * queries.states.floats + at for i in range(self.tile.queries) for at in dimensions
            }
            sums = {key: e.variable(state.vector(place)) for key, place in places.items()}
            with e.loop(0, block.seen) as position:
                values = {at: block.head.value(position, at) for at in dimensions}
                if block.ahead and first == 0:
                    block.ahead.prefetch_value(position)
                for i in range(self.tile.queries):
                    weight = weights[position + i * BLOCK_TOKENS].splat()
                    for at in dimensions:
                        sums[i, at].value = e.fma(values[at], weight, sums[i, at].value)
            for key, place in places.items():
                state[place] = sums[key].value

    def _scaled(self, block: Block, dimension: int) -> Pointer:
        """The weights times the scales of a dimension of the values."""
        if dimension % SCALE_GROUP == 0:
            halves = range(0, BLOCK_TOKENS, LANES)
            scales = [block.head.value_scale(dimension, half) for half in halves]
            for i, (half, scale) in product(range(self.tile.queries), zip(halves, scales, strict=True)):
                at = i * BLOCK_TOKENS + half
                self.scaled[at] = self.weights.vector(at) * scale
        return self.scaled
