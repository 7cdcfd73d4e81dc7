"""Activations to 8 bits, 32 neighbours at a time: x = scale * code, code from -127 to 127.

A record of 32 activations fills one cache line and has all a matrix product reads of them. Records
are stored as (panels, blocks of columns, PANEL rows): a kernel walks the blocks of a panel's rows
with a single pointer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import max_lanes, sum_lanes
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.layouts import STRIP_COLUMNS, offset_of
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import aligned
from shimmy_plugins.backends.cpu.values import F32, I8, I32, LANES, Pointer, Type, Value

#: Rows in a panel: as many as the largest tile of a matrix product.
PANEL = 12
#: ``minus_sums`` are those of the codes, negative; ``sums`` those of scale * code: of the first 16
#: columns, the other 16, and all.
RECORD = np.dtype(
    {
        "names": ["codes", "scale", "minus_sums", "sums"],
        "formats": ["(32,)i1", "<f4", "(3,)<i4", "(3,)<f4"],
        "offsets": [0, 32, 36, 48],
        "itemsize": 64,
    }
)
#: A block of less than this is zero: 127 / x must be finite.
_TINY = 1e-30


@dataclass(slots=True, eq=False)
class QuantizedRows:
    """Memory for the quantised result of one node at a time."""

    records: NDArray[np.void]
    """(panels, blocks, PANEL)."""
    node: int = -1
    """Whose result it holds."""


@dataclass(frozen=True, slots=True)
class Record:
    """Emits the access to a record; numbers come in every lane of vectors of ``lanes``."""

    at: Pointer
    lanes: int = LANES

    def quad(self, index: int) -> Value:
        """Codes 4 * index to 4 * index + 3."""
        return self.at.cast(I32)[index].splat(self.lanes)

    @property
    def scale(self) -> Value:
        return self._field("scale", 0, F32).splat(self.lanes)

    def minus_sum(self, group: int, groups: int) -> Value:
        """Minus the sum of the codes of one of the record's groups."""
        return self._field("minus_sums", _place(group, groups), I32).splat(self.lanes)

    def sum(self, group: int, groups: int) -> Value:
        """The sum of the dequantised columns of one of the record's groups."""
        return self._field("sums", _place(group, groups), F32).splat(self.lanes)

    def fill(self, halves: Sequence[Value]) -> None:
        """Quantise 32 activations, in two vectors."""
        e = self.at.emitter
        # As integers, since NaN is the largest of them: damage in must be damage out.
        magnitudes = [half.bits(I32) & 0x7FFFFFFF for half in halves]
        largest = max_lanes(e.maximum(*magnitudes)).bits(F32)
        zero = e.coerce(0.0, F32)
        inverse = e.select(e.coerce(_TINY, F32) < largest, e.coerce(127.0, F32) / largest, zero).splat()
        scale = largest / 127.0
        self._put("scale", 0, scale)
        codes = [_code(half * inverse) for half in halves]
        sums = [sum_lanes(code) for code in codes]
        for i, code in enumerate(codes):
            self.at[i * LANES] = code.narrow(I8)
        for i, total in enumerate([*sums, sums[0] + sums[1]]):
            self._put("minus_sums", i, e.coerce(0, I32) - total)
            self._put("sums", i, total.to_float(signed=True) * scale)

    def _field(self, name: str, index: int, element: Type) -> Value:
        return (self.at + offset_of(RECORD, name)).cast(element)[index]

    def _put(self, name: str, index: int, value: Value) -> None:
        (self.at + offset_of(RECORD, name)).cast(value.type)[index] = value


def _code(scaled: Value) -> Value:
    """The nearest integer; NaN gives -127, as any other would do: the scale shows the damage."""
    e = scaled.emitter
    rounded = e.intrinsic("rint", scaled)
    return e.minimum(e.maximum(e.floats(-127.0), rounded), e.floats(127.0)).to_integer()


def _place(group: int, groups: int) -> int:
    return group if groups > 1 else 2


def record_at(records: Pointer, row: Value, block: Value, blocks: Value) -> Record:
    """The record of a row's block of columns; those of the panel's following rows come after it."""
    index = (row // PANEL * blocks + block) * PANEL + row % PANEL
    return Record(records + index * RECORD.itemsize)


def _body(_e: Emitter, f: Fields, work: Work) -> None:
    blocks, records = f.size("blocks"), f.pointer("records", I8)
    with work.claim(f.count("rows") * blocks) as item:
        row, block = item // blocks, item % blocks
        x = f.pointer("x") + (row * f.size("x_stride") + block * STRIP_COLUMNS)
        record_at(records, row, block, blocks).fill([x.vector(0), x.vector(LANES)])


KERNEL = Kernel("quantize", ("rows", "x", "x_stride", "blocks", "records"), _body)


def quantized(low: Lowering, node: Node) -> QuantizedRows:
    """The first input of ``node`` in 8 bits; recorded once for nodes in a row that share it."""
    x = low.input(node)
    blocks = -(-x.width // STRIP_COLUMNS)
    if blocks not in low.quantized:
        panels = -(-low.limits.step_tokens // PANEL)
        low.quantized[blocks] = QuantizedRows(aligned((panels, blocks, PANEL), RECORD))
    rows = low.quantized[blocks]
    if rows.node != node.inputs[0]:
        rows.node = node.inputs[0]
        low.call(
            KERNEL,
            reads=[x],
            writes=[rows],
            rows=x.rows,
            x=x.array,
            x_stride=x.stride,
            blocks=blocks,
            records=rows.records,
        )
    return rows
