"""What kernels on the paged KV cache share: the way from a row of the step to its blocks."""

from __future__ import annotations

from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, address
from shimmy_plugins.backends.cpu.kernels.cached import CachedHead
from shimmy_plugins.backends.cpu.kvcache import HeadLayout, LayerCache
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import I8, I32, I64, Value

PAGED_FIELDS = ("positions", "slots", "tables", "tables_stride", "blocks", "layer_offset", "kv_heads")


def paged_fields(low: Lowering, layer: LayerCache) -> dict[str, FieldValue]:
    """Values of the shared fields for a layer."""
    step = low.step
    return {
        "positions": step.positions,
        "slots": step.slots,
        "tables": step.tables,
        "tables_stride": step.tables.shape[1],
        # The table of addresses moves when the cache grows, so this is where its address is found.
        "blocks": step.block_addresses,
        "layer_offset": layer.offset,
        "kv_heads": layer.heads,
    }


class Sequence:
    """The sequence that a row of the step belongs to, inside a kernel."""

    def __init__(self, e: Emitter, f: Fields, row: Value) -> None:
        self._e, self._f = e, f
        slot = f.pointer("slots", I32)[row].widen(I64)
        self._table = f.pointer("tables", I32) + slot * f.size("tables_stride")
        self.position = f.pointer("positions", I32)[row].widen(I64)

    def head(self, index: Value, head: Value, layout: HeadLayout) -> CachedHead:
        """This layer's head ``head`` in the sequence's block ``index``."""
        addresses = address(self._e, self._f.count("blocks"), I64)
        block = address(self._e, addresses[self._table[index].widen(I64)], I8)
        return CachedHead(block + (self._f.size("layer_offset") + head * layout.bytes), layout)
