"""What kernels on the paged KV cache share: the way from a row of the step to its blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shimmy_plugins.backends.cpu.emitter import F32, I32, I64, Emitter, Pointer, Value
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, address
from shimmy_plugins.backends.cpu.kvcache import LayerCache
from shimmy_plugins.backends.cpu.lowering import Lowering

PAGED_FIELDS = (
    "rows", "positions", "slots", "tables", "tables_stride", "blocks", "key_offset", "value_offset",
)  # fmt: skip


def paged_fields(low: Lowering, layer: LayerCache, rows: NDArray[np.int64]) -> dict[str, FieldValue]:
    """Values of the shared fields for a layer."""
    step = low.step
    return {
        "rows": rows,
        "positions": step.positions,
        "slots": step.slots,
        "tables": step.tables,
        "tables_stride": step.tables.shape[1],
        # The table of addresses moves when the cache grows, so this is where its address is found.
        "blocks": step.block_addresses,
        "key_offset": layer.key_offset,
        "value_offset": layer.value_offset,
    }


class Sequence:
    """The sequence that a row of the step belongs to, inside a kernel."""

    def __init__(self, e: Emitter, f: Fields, row: Value) -> None:
        self._e, self._f = e, f
        slot = f.pointer("slots", I32)[row].widen(I64)
        self._table = f.pointer("tables", I32) + slot * f.size("tables_stride")
        self.position = f.pointer("positions", I32)[row].widen(I64)

    def keys(self, index: Value) -> Pointer:
        """This layer's keys in the sequence's block ``index``; see ``LayerCache`` for their order."""
        return self._block(index) + self._f.size("key_offset")

    def values(self, index: Value) -> Pointer:
        """This layer's values in the block."""
        return self._block(index) + self._f.size("value_offset")

    def _block(self, index: Value) -> Pointer:
        addresses = address(self._e, self._f.count("blocks"), I64)
        return address(self._e, addresses[self._table[index].widen(I64)], F32)
