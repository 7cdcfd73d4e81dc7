"""attention: softmax attention of each row and head over the positions up to the row's own.

The order of positions is all there is to the order of additions, so a row's bits do not depend on
what else is in the batch: scores 16 positions at a time (keys are stored with positions innermost),
their largest, exp of the differences and its sum, then the weighted sum of values, 16 dimensions at
a time.
"""

from __future__ import annotations

from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import LANES, Emitter, Pointer, Value
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels import kv_append
from shimmy_plugins.backends.cpu.kernels.paged import PAGED_FIELDS, Sequence, paged_fields
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import round_up

_FIELDS = (
    *PAGED_FIELDS, "heads", "sharing", "q", "q_stride", "y", "y_stride", "scale", "scores", "scores_stride",
)  # fmt: skip

#: Vectors of a value summed at once: as many as fit the registers.
_SUMS = 8
#: Dimensions of a key per turn of the loop: each has a chain of additions of its own.
_CHAINS = 4


@cache
def kernel(key_dim: int, value_dim: int) -> Kernel:
    """The kernel for heads of a size; ``sharing`` query heads share a head of keys and values."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        heads = f.size("heads")
        scores = f.pointer("scores") + work.thread * f.size("scores_stride")
        # Later rows see more positions: dealing items in turn gives every thread its part of them.
        with e.loop(work.thread, f.count("rows") * heads, work.threads) as item:
            row, head = item // heads, item % heads
            sequence = Sequence(e, f, row)
            shared = head // f.size("sharing")
            q = f.pointer("q") + (row * f.size("q_stride") + head * key_dim)
            y = f.pointer("y") + (row * f.size("y_stride") + head * value_dim)
            length = sequence.position + 1
            largest = _scores(e, f, sequence, shared, key_dim, q, scores)
            total = _exponentials(e, scores, length, largest)
            _values(e, sequence, shared, value_dim, scores, total, y)

    return Kernel(f"attention_{key_dim}_{value_dim}", _FIELDS, body)


def _scores(
    e: Emitter, f: Fields, sequence: Sequence, head: Value, key_dim: int, q: Pointer, scores: Pointer
) -> Value:
    """scores[position] = q . k * scale, -inf past the last one in its block; returns the largest."""
    length, scale = sequence.position + 1, f.float("scale").splat()
    nothing = e.floats(float("-inf"))
    largest = e.variable(nothing)
    with e.loop(0, length, BLOCK_TOKENS) as start:
        keys = sequence.keys(start // BLOCK_TOKENS) + head * (key_dim * BLOCK_TOKENS)
        for half in range(0, BLOCK_TOKENS, LANES):
            dots = _dot(e, q, keys + half, key_dim) * scale
            at = start + half
            known = e.select(e.lanes_below(e.maximum(length, at) - at), dots, nothing)
            scores[at] = known
            largest.value = e.maximum(largest.value, known)
    return e.max_lanes(largest.value)


def _dot(e: Emitter, q: Pointer, keys: Pointer, key_dim: int) -> Value:
    """q . k for 16 positions: dimension d in chain d % 4, then the chains in pairs."""
    chains = [e.variable(e.floats(0.0)) for _ in range(_CHAINS)]

    def add(dimension: Value, chain: int) -> None:
        key = keys.vector(dimension * BLOCK_TOKENS)
        chains[chain].value = e.fma(key, q[dimension].splat(), chains[chain].value)

    whole = key_dim - key_dim % _CHAINS
    with e.loop(0, whole, _CHAINS) as first:
        for chain in range(_CHAINS):
            add(first + chain, chain)
    for rest in range(whole, key_dim):
        add(e.int(rest), rest - whole)
    a, b, c, d = (chain.value for chain in chains)
    return (a + b) + (c + d)


def _exponentials(e: Emitter, scores: Pointer, length: Value, largest: Value) -> Value:
    """scores = exp(scores - largest); returns their sum."""
    sums = e.variable(e.floats(0.0))
    with e.loop(0, length, LANES) as at:
        weights = e.exp(scores.vector(at) - largest.splat())
        scores[at] = weights
        sums.value = sums.value + weights
    return e.sum_lanes(sums.value)


def _values(
    e: Emitter, sequence: Sequence, head: Value, value_dim: int, weights: Pointer, total: Value, y: Pointer
) -> None:
    """y = sum of weight * value over the positions, divided by the sum of weights."""
    length, stride = sequence.position + 1, round_up(value_dim)
    for first in range(0, stride, _SUMS * LANES):
        dimensions = range(first, min(first + _SUMS * LANES, stride), LANES)
        sums = [e.variable(e.floats(0.0)) for _ in dimensions]
        with e.loop(0, length, BLOCK_TOKENS) as start:
            values = sequence.values(start // BLOCK_TOKENS) + head * (BLOCK_TOKENS * stride)
            with e.loop(0, e.minimum(length - start, e.int(BLOCK_TOKENS))) as i:
                weight = weights[start + i].splat()
                for dimension, sum_ in zip(dimensions, sums, strict=True):
                    sum_.value = e.fma(weight, values.vector(i * stride + dimension), sum_.value)
        for dimension, sum_ in zip(dimensions, sums, strict=True):
            left = e.int(min(value_dim - dimension, LANES))
            y.put_first(left, sum_.value / total.splat(), dimension)


def lower(low: Lowering, node: Node) -> None:
    """Record the calls for a node: append, then attend."""
    q, k, v = (low.input(node, i) for i in range(3))
    (heads, key_dim), (kv_heads, _), (_, value_dim) = (low.shape(i) for i in node.inputs)
    layer = low.cache.layer(node.attrs["layer"], kv_heads, key_dim, value_dim)
    kv_append.append(low, layer, k, v)
    y = low.output(node)
    scores, scores_stride = low.scratch(round_up(low.limits.max_ctx, BLOCK_TOKENS))
    low.call(
        kernel(key_dim, value_dim),
        reads=[q, low.cache],
        writes=[y],
        **paged_fields(low, layer, y.rows),
        heads=heads,
        sharing=heads // kv_heads,
        q=q.array,
        q_stride=q.stride,
        y=y.array,
        y_stride=y.stride,
        scale=float(node.attrs["scale"]),
        scores=scores,
        scores_stride=scores_stride,
    )
