"""The NumPy definition of every core op: what correct means. Plain, F32, one row like any other.

Arrays have the token rows first. Nothing here is fast; engines are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.batch import Batch
from shimmy.graph.rope import rope_frequencies
from shimmy.graph.scaling import RopeScaling

F32 = NDArray[np.float32]


def embed(*, weight: F32, batch: Batch) -> F32:
    return weight[batch.tokens]


def linear(x: F32, *, weight: F32, bias: F32 | None = None) -> F32:
    # Row by row: what BLAS makes of several rows at once depends on how many they are.
    y: F32 = np.matmul(x[:, None, :], weight.T)[:, 0]
    return y if bias is None else y + bias


def rms_norm(x: F32, *, weight: F32, eps: float) -> F32:
    mean = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
    return (x / np.sqrt(mean + np.float32(eps)) * weight).astype(np.float32)


def heads(x: F32, *, heads: int) -> F32:
    return x.reshape(len(x), heads, -1)


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
    """KV cache by block: ``blocks[layer, block]`` is a (2, block_tokens, kv_heads, head_dim) array."""

    block_tokens: int
    blocks: dict[tuple[int, int], F32] = field(default_factory=dict)

    def write(self, layer: int, block: int, offset: int, k: F32, v: F32) -> None:
        """Store one token's keys and values, each (kv_heads, head_dim)."""
        shape = (2, self.block_tokens, *k.shape)
        store = self.blocks.setdefault((layer, block), np.zeros(shape, np.float32))
        store[0, offset], store[1, offset] = k, v

    def read(self, layer: int, table: NDArray[np.int32], length: int) -> tuple[F32, F32]:
        """Keys and values of the first ``length`` tokens, each (length, kv_heads, head_dim)."""
        count = -(-length // self.block_tokens)
        both = np.concatenate([self.blocks[layer, int(b)] for b in table[:count]], axis=1)
        return both[0, :length], both[1, :length]


def attention(
    q: F32, k: F32, v: F32, *, layer: int, scale: float, batch: Batch, cache: ReferenceCache
) -> F32:
    size = cache.block_tokens
    for row, (slot, position) in enumerate(zip(batch.slots, batch.positions, strict=True)):
        block = int(batch.block_tables[slot, position // size])
        cache.write(layer, block, int(position) % size, k[row], v[row])
    group = q.shape[1] // k.shape[1]
    out = np.empty((len(q), q.shape[1], v.shape[2]), np.float32)
    for row, (slot, position) in enumerate(zip(batch.slots, batch.positions, strict=True)):
        keys, values = cache.read(layer, batch.block_tables[slot], int(position) + 1)
        keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
        scores = np.einsum("hd,thd->ht", q[row], keys) * np.float32(scale)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        out[row] = np.einsum("ht,thd->hd", weights, values)
    return out.reshape(len(q), -1)


def swiglu(gate: F32, up: F32) -> F32:
    return (gate / (np.float32(1) + np.exp(-gate)) * up).astype(np.float32)


def add(a: F32, b: F32) -> F32:
    return a + b


def last(x: F32, *, batch: Batch) -> F32:
    return x[batch.outputs]
