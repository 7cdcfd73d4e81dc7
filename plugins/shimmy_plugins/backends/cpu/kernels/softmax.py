"""Softmax attention of a few queries that read the same keys and values, in three passes.

Scores 16 positions at a time (keys are stored with positions innermost) and their largest; exp of
the differences and its sum; the weighted sum of values, 16 dimensions at a time, over the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from shimmy_plugins.backends.cpu.emitter import LANES, Emitter, Pointer, Value, Variable
from shimmy_plugins.backends.cpu.functions import exp, max_lanes, sum_lanes
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.cpu.memory import round_up

#: Chains of additions in a product of query and key: even and odd dimensions, then both together.
CHAINS = 2


@dataclass(frozen=True, slots=True)
class Query:
    """A row at a head: it sees the first ``length`` positions."""

    q: Pointer
    y: Pointer
    length: Value


@dataclass(frozen=True, slots=True)
class Cached:
    """One head of the cache: where its keys and values are in a block; see ``LayerCache`` for their order."""

    keys: Callable[[Value], Pointer]
    values: Callable[[Value], Pointer]
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Memory for a number per position and query: (positions / 16, queries, 16)."""

    memory: Pointer
    queries: int

    def at(self, position: Value, query: int) -> Pointer:
        """The numbers of 16 positions; ``position`` is the first."""
        return self.memory + (position * self.queries + query * LANES)


def attend(
    e: Emitter, queries: list[Query], cached: Cached, scale: Value, memory: Pointer, accumulators: int
) -> None:
    """Write y of all queries, the last of which sees most; so many accumulators fit the registers."""
    scores = Scores(memory, len(queries))
    largest = _scores(e, queries, cached, scale, scores)
    length = queries[-1].length
    totals = [_exponentials(e, scores, i, length, most) for i, most in enumerate(largest)]
    vectors = max(accumulators // len(queries), 1)
    for first in range(0, cached.value_dim, vectors * LANES):
        dimensions = range(first, min(first + vectors * LANES, cached.value_dim), LANES)
        _values(e, queries, cached, scores, totals, dimensions)


def _scores(e: Emitter, queries: list[Query], cached: Cached, scale: Value, scores: Scores) -> list[Value]:
    """score = q . k * scale, -inf past a query's length; returns the largest of each query."""
    nothing = e.floats(float("-inf"))
    largest = [e.variable(nothing) for _ in queries]
    with e.loop(0, queries[-1].length, BLOCK_TOKENS) as start:
        keys, ahead = _blocks(e, cached.keys, start, queries[-1].length)
        for half in range(0, BLOCK_TOKENS, LANES):
            at = start + half
            skip = half * cached.key_dim
            dots = _dots(e, queries, keys + skip, ahead + skip, cached.key_dim)
            for i, (query, most, dot) in enumerate(zip(queries, largest, dots, strict=True)):
                left = e.maximum(query.length, at) - at
                score = e.select(e.lanes_below(left), dot * scale.splat(), nothing)
                scores.at(at, i)[0] = score
                most.value = e.maximum(most.value, score)
    return [max_lanes(most.value) for most in largest]


def _blocks(
    e: Emitter, part: Callable[[Value], Pointer], position: Value, length: Value
) -> tuple[Pointer, Pointer]:
    """The keys or values of a position's block, and of the next one, to be fetched ahead."""
    index, last = position // BLOCK_TOKENS, (length - 1) // BLOCK_TOKENS
    return part(index), part(e.minimum(index + 1, last))


def _dots(e: Emitter, queries: list[Query], keys: Pointer, ahead: Pointer, key_dim: int) -> list[Value]:
    """q . k of each query at 16 positions."""
    chains = [[e.variable(e.floats(0.0)) for _ in range(CHAINS)] for _ in queries]

    def add(dimension: Value, chain: int) -> None:
        key = keys.vector(dimension * LANES)
        ahead.prefetch(dimension * LANES)
        for query, variables in zip(queries, chains, strict=True):
            _accumulate(e, variables[chain], key, query.q[dimension])

    whole = key_dim - key_dim % CHAINS
    with e.loop(0, whole, CHAINS) as first:
        for chain in range(CHAINS):
            add(first + chain, chain)
    if whole < key_dim:
        add(e.int(whole), 0)
    return [even.value + odd.value for even, odd in chains]


def _exponentials(e: Emitter, scores: Scores, query: int, length: Value, largest: Value) -> Value:
    """score = exp(score - largest), 0 past the query's length; returns their sum."""
    total = e.variable(e.floats(0.0))
    with e.loop(0, length, LANES) as at:
        score = scores.at(at, query)
        score[0] = exp(score.vector() - largest.splat())
        total.value = total.value + score.vector()
    return sum_lanes(total.value)


def _values(
    e: Emitter, queries: list[Query], cached: Cached, scores: Scores, totals: list[Value], dimensions: range
) -> None:
    """y = sum of score * value over the positions / sum of scores, for some vectors of dimensions."""
    length, stride = queries[-1].length, round_up(cached.value_dim)
    sums = {key: e.variable(e.floats(0.0)) for key in product(range(len(queries)), dimensions)}
    with e.loop(0, length, LANES) as start:
        skip = start % BLOCK_TOKENS * stride
        values, ahead = (part + skip for part in _blocks(e, cached.values, start, length))
        weights = [scores.at(start, i) for i in range(len(queries))]
        with e.loop(0, e.minimum(length - start, e.int(LANES))) as i:
            vectors = {}
            for dimension in dimensions:
                vectors[dimension] = values.vector(i * stride + dimension)
                ahead.prefetch(i * stride + dimension)
            for (index, dimension), total in sums.items():
                _accumulate(e, total, vectors[dimension], weights[index][i])
    for (index, dimension), total in sums.items():
        left = e.int(min(cached.value_dim - dimension, LANES))
        queries[index].y.put_first(left, total.value / totals[index].splat(), dimension)


def _accumulate(e: Emitter, total: Variable, vector: Value, number: Value) -> None:
    total.value = e.fma(vector, number.splat(), total.value)
