"""The first half of attention: each row's keys and values go into its sequence's cache."""

from __future__ import annotations

from shimmy_plugins.backends.cpu.emitter import LANES, Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.paged import PAGED_FIELDS, Sequence, paged_fields
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS, LayerCache
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.program import Tensor

_FIELDS = (
    *PAGED_FIELDS, "heads", "key_dim", "value_dim", "value_stride", "k", "k_stride", "v", "v_stride",
)  # fmt: skip


def _body(e: Emitter, f: Fields, work: Work) -> None:
    heads, key_dim, value_dim = (f.size(name) for name in ("heads", "key_dim", "value_dim"))
    with work.claim(f.count("rows") * heads) as item:
        row, head = item // heads, item % heads
        sequence = Sequence(e, f, row)
        block, offset = sequence.position // BLOCK_TOKENS, sequence.position % BLOCK_TOKENS
        k = f.pointer("k") + (row * f.size("k_stride") + head * key_dim)
        keys = sequence.keys(block) + head * key_dim * BLOCK_TOKENS
        keys += offset // LANES * LANES * key_dim + offset % LANES
        with e.loop(0, key_dim) as i:
            keys[i * LANES] = k[i]
        v = f.pointer("v") + (row * f.size("v_stride") + head * value_dim)
        values = sequence.values(block) + (head * BLOCK_TOKENS + offset) * f.size("value_stride")
        with e.loop(0, value_dim) as i:
            values[i] = v[i]


KERNEL = Kernel("kv_append", _FIELDS, _body)


def append(low: Lowering, layer: LayerCache, k: Tensor, v: Tensor) -> None:
    """Record the call for a layer."""
    low.call(
        KERNEL,
        reads=[k, v],
        writes=[low.cache],
        **paged_fields(low, layer, k.rows),
        heads=layer.heads,
        key_dim=layer.key_dim,
        value_dim=layer.value_dim,
        value_stride=layer.value_stride,
        k=k.array,
        k_stride=k.stride,
        v=v.array,
        v_stride=v.stride,
    )
