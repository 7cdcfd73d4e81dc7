"""The first half of attention: each row's keys and values go into its sequence's cache."""

from __future__ import annotations

from functools import cache

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.paged import PAGED_FIELDS, Sequence, paged_fields
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS, HeadLayout, LayerCache
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.program import Tensor

_FIELDS = (*PAGED_FIELDS, "rows", "k", "k_stride", "v", "v_stride")


@cache
def kernel(layout: HeadLayout) -> Kernel:
    """The kernel for heads of some layout."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        heads = f.size("kv_heads")
        with work.claim(f.count("rows") * heads) as item:
            row, head = item // heads, item % heads
            sequence = Sequence(e, f, row)
            block, offset = sequence.position // BLOCK_TOKENS, sequence.position % BLOCK_TOKENS
            k = f.pointer("k") + (row * f.size("k_stride") + head * layout.key_dim)
            v = f.pointer("v") + (row * f.size("v_stride") + head * layout.value_dim)
            sequence.head(block, head, layout).put(offset, k, v)

    return Kernel(f"kv_append_{layout.kv_type}_{layout.key_dim}_{layout.value_dim}", _FIELDS, body)


def append(low: Lowering, layer: LayerCache, k: Tensor, v: Tensor) -> None:
    """Record the call for a layer."""
    low.call(
        kernel(layer.head),
        reads=[k, v],
        writes=[low.cache],
        **paged_fields(low, layer),
        rows=k.rows,
        k=k.array,
        k_stride=k.stride,
        v=v.array,
        v_stride=v.stride,
    )
