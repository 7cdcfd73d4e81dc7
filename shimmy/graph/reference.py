"""The NumPy definition of every core op: what correct means. Plain, F32, one row like any other.

Arrays have the token rows first. Nothing here is fast; engines are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.batch import Batch
from shimmy.graph.kv import stored
from shimmy.graph.rope import rope_frequencies
from shimmy.graph.scaling import RopeScaling

F32 = NDArray[np.float32]


def embed(*, weight: F32, batch: Batch) -> F32:
    return weight[batch.tokens]


def position_embed(*, weight: F32, batch: Batch) -> F32:
    return weight[batch.positions]


def linear(x: F32, *, weight: F32, bias: F32 | None = None) -> F32:
    # Row by row: what BLAS makes of several rows at once depends on how many they are.
    y: F32 = np.matmul(x[:, None, :], np.atleast_2d(weight).T)[:, 0]
    return y if bias is None else y + bias


def rms_norm(x: F32, *, weight: F32, eps: float) -> F32:
    mean = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
    return (x / np.sqrt(mean + np.float32(eps)) * weight).astype(np.float32)


def layer_norm(x: F32, *, weight: F32, eps: float, bias: F32 | None = None) -> F32:
    centred = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(np.square(centred), axis=-1, keepdims=True, dtype=np.float32)
    y = (centred / np.sqrt(variance + np.float32(eps)) * weight).astype(np.float32)
    return y if bias is None else y + bias


def heads(x: F32, *, heads: int) -> F32:
    return x.reshape(len(x), heads, -1)


def part(x: F32, *, start: int, size: int) -> F32:
    # A copy, so that what BLAS makes of it is what it makes of any row.
    return np.ascontiguousarray(x[:, start : start + size])


def rope(
    x: F32,
    *,
    base: float,
    dims: int,
    style: str,
    scaling: RopeScaling,
    batch: Batch,
    factors: F32 | None = None,
) -> F32:
    frequencies = rope_frequencies(base, dims, scaling, factors)
    cos, sin = (table[:, None, :] for table in frequencies.cos_sin(batch.positions))
    first, second = (
        (slice(0, dims, 2), slice(1, dims, 2))
        if style == "interleaved"
        else (slice(0, dims // 2), slice(dims // 2, dims))
    )
    y = x.copy()
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., first] * sin + x[..., second] * cos
    return y


@dataclass(slots=True)
class ReferenceCache:
    """KV cache by block, in F32: numbers as they would come back from a cache of ``kv_type``.

    ``blocks[layer, block]`` are two arrays (block_tokens, kv_heads, head_dim), keys and values.
    """

    block_tokens: int
    kv_type: str = "f32"
    blocks: dict[tuple[int, int], tuple[F32, F32]] = field(default_factory=dict)

    def write(self, layer: int, block: int, offset: int, k: F32, v: F32) -> None:
        """Store one token's keys and values, each (kv_heads, head_dim)."""
        if (layer, block) not in self.blocks:
            empty = (np.zeros((self.block_tokens, *x.shape), np.float32) for x in (k, v))
            self.blocks[layer, block] = (next(empty), next(empty))
        for store, x in zip(self.blocks[layer, block], (k, v), strict=True):
            store[offset] = stored(x, self.kv_type)

    def read(self, layer: int, table: NDArray[np.int32], length: int) -> tuple[F32, F32]:
        """Keys and values of the first ``length`` tokens, each (length, kv_heads, head_dim)."""
        count = -(-length // self.block_tokens)
        both = zip(*(self.blocks[layer, int(b)] for b in table[:count]), strict=True)
        keys, values = (np.concatenate(blocks)[:length] for blocks in both)
        return keys, values


def attention(
    q: F32,
    k: F32,
    v: F32,
    *,
    layer: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    batch: Batch,
    cache: ReferenceCache,
) -> F32:
    size = cache.block_tokens
    for row, (slot, position) in enumerate(zip(batch.slots, batch.positions, strict=True)):
        block = int(batch.block_tables[slot, position // size])
        cache.write(layer, block, int(position) % size, k[row], v[row])
    group = q.shape[1] // k.shape[1]
    out = np.empty((len(q), q.shape[1], v.shape[2]), np.float32)
    for row, (slot, position) in enumerate(zip(batch.slots, batch.positions, strict=True)):
        keys, values = cache.read(layer, batch.block_tables[slot], int(position) + 1)
        if window is not None:
            keys, values = keys[-window:], values[-window:]
        keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
        scores = np.einsum("hd,thd->ht", q[row], keys) * np.float32(scale)
        if softcap is not None:
            scores = np.tanh(scores / np.float32(softcap)) * np.float32(softcap)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        out[row] = np.einsum("ht,thd->hd", weights, values)
    return out.reshape(len(q), -1)


def gelu(x: F32) -> F32:
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    return (np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))).astype(np.float32)


def geglu(gate: F32, up: F32) -> F32:
    return gelu(gate) * up


def swiglu(gate: F32, up: F32) -> F32:
    return (gate / (np.float32(1) + np.exp(-gate)) * up).astype(np.float32)


def sigmoid_gate(x: F32, gate: F32) -> F32:
    return (x / (np.float32(1) + np.exp(-gate))).astype(np.float32)


def add(a: F32, b: F32) -> F32:
    return a + b


def scale(x: F32, *, factor: float) -> F32:
    return x * np.float32(factor)


def softcap(x: F32, *, cap: float) -> F32:
    y: F32 = np.tanh(x / np.float32(cap)) * np.float32(cap)
    return y


def last(x: F32, *, batch: Batch) -> F32:
    return x[batch.outputs]
