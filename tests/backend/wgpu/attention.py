"""One layer's attention on the GPU beside its NumPy definition, over made-up sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from shimmy.graph import reference
from shimmy.graph.batch import Batch
from shimmy.graph.rope import rope_frequencies
from shimmy.graph.scaling import PLAIN
from shimmy_plugins.backends.wgpu.device import Buffer, Gpu, Slice
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel, Size
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS, KVCache
from shimmy_plugins.backends.wgpu.ops.attention import AttentionShape
from shimmy_plugins.backends.wgpu.ops.attention_tile import attention_tile, kv_write
from shimmy_plugins.backends.wgpu.ops.attention_vec import attention_vec, partials_bytes
from shimmy_plugins.backends.wgpu.ops.rope import Rotation, angle_table
from shimmy_plugins.backends.wgpu.ops.row import columns
from shimmy_plugins.backends.wgpu.step import phase_words
from tests.backend.wgpu.kernels import COMPOSER, buffer_of

F32 = NDArray[np.float32]
#: The most rows of a step here.
ROWS = 64


@dataclass(frozen=True)
class Case:
    """Sizes and rules of an attention."""

    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    v_dim: int = 64
    window: int | None = None
    softcap: float | None = None
    rope: Rotation | None = None
    kv_type: str = "f32"
    merged: bool = True
    """Whether q, k and v are columns of one buffer."""
    max_ctx: int = 512
    norms: tuple[float | None, float | None] = (None, None)
    """eps of those of q and of k; only kernels for generated rows compute them."""

    def __str__(self) -> str:
        """What differs from the defaults, for names of tests."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return ", ".join(f"{name}={value}" for name, value, usual in values if value != usual)

    @property
    def widths(self) -> tuple[int, int, int]:
        return self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.v_dim

    def shape(self) -> AttentionShape:
        q, k, v = self.widths
        inputs = (
            (Columns(q, q + k + v, 0), Columns(k, q + k + v, q), Columns(v, q + k + v, q + k))
            if self.merged
            else (columns(q), columns(k), columns(v))
        )
        return AttentionShape(
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.v_dim,
            self.head_dim**-0.5,
            self.window,
            self.softcap,
            self.rope,
            *inputs,
            self.max_ctx,
            *self.norms,
        )


@dataclass(frozen=True)
class Part:
    """Some adjacent positions of a sequence in a step."""

    sequence: int
    start: int
    count: int = 1


@dataclass
class Layer:
    """Attention of a case, on the GPU and by definition, each with a cache of its own."""

    gpu: Gpu
    case: Case
    sequences: int = 4
    seed: int = 7
    _cache: reference.ReferenceCache = field(init=False)

    def __post_init__(self) -> None:
        case, rng = self.case, np.random.default_rng(self.seed)
        self.data = rng.normal(size=(self.sequences, case.max_ctx, sum(case.widths))).astype(np.float32)
        blocks = -(-case.max_ctx // BLOCK_TOKENS)
        ids = rng.permutation(self.sequences * blocks)
        self.tables = ids.reshape(self.sequences, blocks).astype(np.int32)
        self._cache = reference.ReferenceCache(BLOCK_TOKENS, case.kv_type)
        self.kv = KVCache(self.gpu, case.kv_type)
        self.kv.add_layer(0, case.kv_heads, case.head_dim, case.v_dim)
        self.kv.reserve(self.tables.size)
        for part in self.kv.slices(0):
            # What is in a block before its positions are written must not matter.
            self.gpu.upload(part, np.full(part.size // 4, np.nan, np.float32))
        shape = case.shape()
        self.partials = self.gpu.buffer(partials_bytes(shape, ROWS), "partials")
        self.result = self.gpu.buffer(ROWS * case.heads * case.v_dim * 4, "result")
        self.vec = attention_vec(COMPOSER, self.gpu, shape, case.kv_type)
        self.tile = (
            kv_write(COMPOSER, shape, case.kv_type),
            attention_tile(COMPOSER, self.gpu, shape, case.kv_type),
        )
        self.angles = [self._angles().whole()] if case.rope else []
        self.norm_weights = [
            rng.normal(1, 0.5, case.head_dim).astype(np.float32) for eps in case.norms if eps is not None
        ]

    def generated(self, parts: Sequence[Part]) -> F32:
        """The rows' results (T, heads * v_dim), by the kernels for generated rows."""
        (q, k, v), step, size = self._inputs(parts)
        first, second = self.vec
        partials, result = self.partials.whole(), self.result.whole()
        norms = [buffer_of(self.gpu, weight).whole() for weight in self.norm_weights]
        self._run(first, [q, k, v, *self.kv.slices(0), partials, result, step, *self.angles, *norms], size)
        self._run(second, [partials, result, step], size)
        return self._result(size)

    def prompts(self, parts: Sequence[Part]) -> F32:
        """The rows' results, by the kernels for rows of prompts."""
        (q, k, v), step, size = self._inputs(parts)
        keys, values = self.kv.slices(0)
        first, second = self.tile
        self._run(first, [k, v, keys, values, step, *self.angles], size)
        self._run(second, [q, keys, values, self.result.whole(), step, *self.angles], size)
        return self._result(size)

    def expected(self, parts: Sequence[Part]) -> F32:
        """The rows' results by definition."""
        case, batch, rows = self.case, self._batch(parts), self._rows(parts)
        q, k, v = np.split(rows, np.cumsum(case.widths)[:2], axis=1)
        q = q.reshape(len(rows), case.heads, -1)
        k, v = (x.reshape(len(rows), case.kv_heads, -1) for x in (k, v))
        weights = iter(self.norm_weights)
        q, k = (
            x if eps is None else reference.rms_norm(x, weight=next(weights), eps=eps)
            for x, eps in zip((q, k), case.norms, strict=True)
        )
        if case.rope:
            q, k = (
                reference.rope(
                    x, base=1e4, dims=case.rope.dims, style=case.rope.style, scaling=PLAIN, batch=batch
                )
                for x in (q, k)
            )
        return reference.attention(
            q,
            k,
            v,
            layer=0,
            scale=case.head_dim**-0.5,
            window=case.window,
            softcap=case.softcap,
            batch=batch,
            cache=self._cache,
        )

    def _rows(self, parts: Sequence[Part]) -> F32:
        return np.concatenate([self.data[p.sequence, p.start : p.start + p.count] for p in parts])

    def _batch(self, parts: Sequence[Part]) -> Batch:
        positions = np.concatenate([np.arange(p.start, p.start + p.count) for p in parts]).astype(np.int32)
        slots = np.repeat(np.arange(len(parts)), [p.count for p in parts]).astype(np.int32)
        tables = self.tables[[p.sequence for p in parts]]
        return Batch(np.zeros_like(positions), positions, slots, tables, np.empty(0, np.int32))

    def _inputs(self, parts: Sequence[Part]) -> tuple[list[Slice], Slice, Size]:
        batch, rows = self._batch(parts), self._rows(parts)
        step = buffer_of(self.gpu, phase_words(batch, slice(0, len(rows)), 0)).whole()
        size = Size(len(rows), 0, int(batch.positions.max()) + 1)
        if self.case.merged:
            return [buffer_of(self.gpu, rows).whole()] * 3, step, size
        split = np.split(rows, np.cumsum(self.case.widths)[:2], axis=1)
        return [buffer_of(self.gpu, np.ascontiguousarray(part)).whole() for part in split], step, size

    def _angles(self) -> Buffer:
        assert self.case.rope is not None
        frequencies = rope_frequencies(1e4, self.case.rope.dims, PLAIN)
        return buffer_of(self.gpu, angle_table(frequencies, self.case.max_ctx))

    def _run(self, kernel: Kernel, slices: Sequence[Slice], size: Size) -> None:
        pipeline = self.gpu.pipeline(kernel.source, kernel.label)
        if all(kernel.grid(size)):
            self.gpu.run([self.gpu.call(pipeline, self.gpu.bind(pipeline, slices), *kernel.grid(size))])

    def _result(self, size: Size) -> F32:
        width = self.case.heads * self.case.v_dim
        return self.gpu.read(self.result, np.float32, size.rows * width).reshape(size.rows, width)


def error(got: F32, expected: F32) -> float:
    """The largest error of a row, relative to the row's norm."""
    norms = np.linalg.norm(expected, axis=1)
    return float((np.linalg.norm(got - expected, axis=1) / norms).max())
