"""Attention of rows of prompts: keys and values first go to the cache, then tiles of rows attend to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shimmy.errors import GraphError
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size
from shimmy_plugins.backends.wgpu.ops.attention import AttentionShape, shares_of

_WRITE_THREADS = 64
#: Query heads of a tile; the more, the fewer rows.
_HEADS = 16


@dataclass(frozen=True, slots=True)
class _Tile:
    """How a workgroup is laid out: ``tall`` times 4 ``quads`` queries, ``wide`` invocations share keys."""

    tall: int
    wide: int
    keys: int
    quads: int = 1

    @property
    def queries(self) -> int:
        return 4 * self.quads * self.tall

    def memory(self, shape: AttentionShape) -> int:
        """Bytes of workgroup memory."""
        queries = self.queries * (shape.k_chunks + 1)
        keys = self.keys * (max(shape.k_chunks, shape.v_chunks) + 1)
        return 16 * (queries + keys + self.quads * self.tall * (self.keys + self.wide))


#: The first that fits is taken. A tile of keys lies within a block.
_TILES = (
    _Tile(16, 16, 32),
    _Tile(8, 16, 32),
    _Tile(8, 16, 16),
    _Tile(4, 16, 16),
    _Tile(2, 16, 16),
    _Tile(2, 8, 8),
    _Tile(1, 8, 8),
)


def kv_write(composer: Composer, shape: AttentionShape, kv_type: str) -> Kernel:
    """Append k and v of each row to the cache.

    Bindings: k, v, keys, values, step, and the angle table if ``shape.rope``.
    """
    source = composer.compose(
        "shimmy/ops/kv_write.wgsl",
        threads=_WRITE_THREADS,
        scores="f32",
        **shape.parameters(kv_type),
    )
    groups = -(-shape.kv_heads * (shape.k_chunks + shape.v_chunks) // _WRITE_THREADS)
    return Kernel(f"kv write {shape.label} {kv_type}", source, lambda size: (groups, size.rows, 1))


def attention_tile(composer: Composer, gpu: Gpu, shape: AttentionShape, kv_type: str) -> Kernel:
    """Attend to the cache, which has k and v of all rows.

    Bindings: q, keys, values, result, step, and the angle table if ``shape.rope``.

    Raises:
        GraphError: heads are too large for the GPU's workgroup memory.
    """
    tile = _fitting(shape, gpu.limits.workgroup_memory)
    shares, heads = shares_of(shape.per_kv, min(_HEADS, tile.queries))
    rows = tile.queries // heads
    source = composer.compose(
        "shimmy/ops/attention_tile.wgsl",
        tall=tile.tall,
        wide=tile.wide,
        keys=tile.keys,
        quads=tile.quads,
        shares=shares,
        heads=heads,
        rows=rows,
        scores="vec4<f32>",
        **shape.parameters(kv_type),
    )
    return Kernel(f"attention tile {shape.label} {kv_type}", source, _grid(shape.kv_heads * shares, rows))


def _fitting(shape: AttentionShape, memory: int) -> _Tile:
    for tile in _TILES:
        if tile.memory(shape) <= memory:
            return tile
    raise GraphError(
        f"attention with heads of {shape.head_dim} and {shape.v_dim} numbers needs "
        f"{_TILES[-1].memory(shape)} bytes of workgroup memory, this GPU has {memory}.",
        hint='Use the CPU engine for this model: engine_backend = "cpu".',
    )


def _grid(heads: int, rows: int) -> Callable[[Size], tuple[int, int, int]]:
    return lambda size: (-(-size.rows // rows), heads, 1)
