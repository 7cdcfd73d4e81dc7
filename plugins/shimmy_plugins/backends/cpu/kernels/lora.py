"""lora: what adapters add to some rows, in two calls: A x for each entry, then B of that, added to y.

The inputs are F32 in every precision. Each sum has one order, by column, so a row's bits do not depend
on the entries beside it. Groups of 16 rows of B are what threads divide among them, so no two write to
the same part of y, whatever the number of adapters of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work, address
from shimmy_plugins.backends.cpu.kernels.tiles import tiles
from shimmy_plugins.backends.cpu.lora import FIELDS, UNROLL, Entries
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import round_up
from shimmy_plugins.backends.cpu.values import F16, F32, I32, I64, LANES, Pointer, Value

ENTRIES = ("segments", "count", "rows")
_SHRINK = (
    *ENTRIES, "most_groups", "table", "x", "x_stride", "columns", "stride_a", "middle", "middle_stride",
)  # fmt: skip
_EXPAND = (
    *ENTRIES, "scales", "table", "x", "x_stride", "middle", "middle_stride",
    "y", "y_stride", "groups", "zeros",
)  # fmt: skip
_EMBED = (*ENTRIES, "scales", "table", "tokens", "y", "y_stride", "groups", "zeros")
#: Entries that share what is loaded of a weight.
_TILES = (4, 2, 1)


@dataclass(frozen=True, slots=True)
class Segment:
    """Entries of one adapter, and its record at the node."""

    e: Emitter
    f: Fields
    index: Value

    @property
    def place(self) -> Value:
        return self._word(0)

    @property
    def first(self) -> Value:
        return self._word(1)

    @property
    def count(self) -> Value:
        return self._word(2)

    def record(self, field: str) -> Value:
        table = self.f.pointer("table", I64)
        return table[self.place * len(FIELDS) + FIELDS.index(field)]

    def weights(self, field: str) -> Pointer:
        return address(self.e, self.record(field), F32)

    def scale(self) -> Value:
        """The adapter's own, of this node."""
        return self.record("scale").narrow(I32).bits(F32)

    def row(self, entry: Value) -> Value:
        return self.f.pointer("rows", I32)[entry].widen(I64)

    def _word(self, at: int) -> Value:
        return self.f.pointer("segments", I64)[self.index * 3 + at]


@cache
def shrink(unroll: int = UNROLL) -> Kernel:
    """middle[entry] = A x, for entries whose adapter has an A here; x is read by ``unroll`` columns."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        most = f.count("most_groups")
        with work.claim(f.count("count") * most) as item:
            segment, group = Segment(e, f, item // most), item % most
            count = e.select(group < segment.record("groups"), segment.count, e.int(0))
            start = group * f.size("stride_a") * LANES
            for entries in _tiles(e, segment, count):
                x = [f.pointer("x") + segment.row(entry) * f.size("x_stride") for entry in entries]
                sums = _dot(e, segment, "a", start, f.size("columns"), x, unroll)
                for entry, total in zip(entries, sums, strict=True):
                    f.pointer("middle")[entry * f.size("middle_stride") + group * LANES] = total

    return Kernel(f"lora_shrink_{unroll}", _SHRINK, body)


@cache
def expand(*, apart: bool = False) -> Kernel:
    """y[row] += factor * (scale * B middle + offset); B takes x itself where there is no A.

    ``apart``: behind a row of y is no padding, but another one.
    """

    def sources(e: Emitter, f: Fields, segment: Segment, entries: Sequence[Value]) -> list[Pointer]:
        through = e.int(0) < segment.record("groups")
        pairs = [
            (
                f.pointer("middle") + entry * f.size("middle_stride"),
                f.pointer("x") + segment.row(entry) * f.size("x_stride"),
            )
            for entry in entries
        ]
        return [_select(e, through, middle, x) for middle, x in pairs]

    def body(e: Emitter, f: Fields, work: Work) -> None:
        for group, segment in _segments(e, f, work):
            count = e.select(e.int(0) < segment.record("offset"), segment.count, e.int(0))
            for entries in _tiles(e, segment, count):
                sums = _dot_b(e, segment, group, sources(e, f, segment, entries))
                _add(e, f, segment, group, entries, sums, apart=apart)

    return Kernel(f"lora_expand{'_apart' * apart}", (*_EXPAND, *["width"] * apart), body)


@cache
def embed() -> Kernel:
    """y[row] += factor * scale * B a[token]; a[token] itself where there is no B."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        for group, segment in _segments(e, f, work):
            count = e.select(e.int(0) < segment.record("offset"), segment.count, e.int(0))
            whole = segment.record("columns") < 1
            for entries in _tiles(e, segment, count):
                tokens = [f.pointer("tokens", I32)[segment.row(entry)].widen(I64) for entry in entries]
                rows = [segment.weights("a") + token * segment.record("stride") for token in tokens]
                sums = _dot_b(e, segment, group, rows)
                own = [_select(e, whole, row + group * LANES, f.pointer("zeros")).vector() for row in rows]
                sums = [total + vector for total, vector in zip(sums, own, strict=True)]
                _add(e, f, segment, group, entries, sums)

    return Kernel("lora_embed", _EMBED, body)


def _segments(e: Emitter, f: Fields, work: Work) -> Iterator[tuple[Value, Segment]]:
    """Each group of 16 columns of y that this thread has, with each segment in turn."""
    with work.claim(f.size("groups")) as group, e.loop(0, f.count("count")) as index:
        yield group, Segment(e, f, index)


def _tiles(e: Emitter, segment: Segment, count: Value) -> Iterator[list[Value]]:
    for first, size in tiles(e, count, _TILES):
        yield [segment.first + first + t for t in range(size)]


def _dot_b(e: Emitter, segment: Segment, group: Value, x: list[Pointer]) -> list[Value]:
    columns = segment.record("columns")
    return _dot(e, segment, "b", group * columns * LANES, columns, x)


def _dot(
    e: Emitter,
    segment: Segment,
    field: str,
    start: Value,
    columns: Value,
    x: list[Pointer],
    unroll: int = UNROLL,
) -> list[Value]:
    """The sums over ``columns`` of 16 rows of a weight, from element ``start`` on, times each x."""
    even, odd = ([e.variable(e.floats(0.0)) for _ in x] for _ in range(2))
    with e.when_else(e.int(0) < segment.record("half")) as branches:
        for branch, element in zip(branches, (F16, F32), strict=True):
            with branch, e.loop(0, columns, unroll) as first:
                weight = segment.weights(field).cast(element) + start
                for column in (first + k for k in range(unroll)):
                    values = weight.vector(column * LANES)
                    values = values.widen(F32) if element is F16 else values
                    even, odd = odd, even
                    for at, total in zip(x, even, strict=True):
                        total.value = e.fma(values, at[column].splat(), total.value)
    return [a.value + b.value for a, b in zip(even, odd, strict=True)]


def _add(
    e: Emitter,
    f: Fields,
    segment: Segment,
    group: Value,
    entries: list[Value],
    sums: list[Value],
    *,
    apart: bool = False,
) -> None:
    offset = segment.weights("offset").vector(group * LANES)
    for entry, total in zip(entries, sums, strict=True):
        factor = f.pointer("scales")[entry].splat()
        added = e.fma(total, segment.scale().splat(), offset)
        y = f.pointer("y") + (segment.row(entry) * f.size("y_stride") + group * LANES)
        if apart:
            left = e.minimum(f.size("width") - group * LANES, e.int(LANES))
            y.put_first(left, e.fma(added, factor, y.first(left)))
        else:
            y[0] = e.fma(added, factor, y.vector())


def _select(e: Emitter, condition: Value, yes: Pointer, no: Pointer) -> Pointer:
    return Pointer(e, e.builder.select(condition.raw, yes.raw, no.raw), yes.element)


def fields_of(table: NDArray[np.int64], entries: Entries) -> dict[str, FieldValue]:
    """What all kernels are told of a node's entries."""
    return {
        "table": table,
        "segments": entries.segments,
        "count": entries.count,
        "rows": entries.rows,
    }


def lower(low: Lowering, node: Node) -> None:
    """Record the calls for a node."""
    state = low.lora
    assert state is not None, "only a program made for adapters has such nodes"
    y = low.input(node)
    low.alias(node)
    entries = state.late if node.attrs["late"] else state.every
    table = state.table(node.attrs["target"], y.stride, embedding=len(node.inputs) == 1)
    own = fields_of(table, entries)
    out: dict[str, FieldValue] = {
        "scales": entries.scales,
        "y": y.array,
        "y_stride": y.stride,
        "groups": -(-y.width // LANES),
        "zeros": state.zeros(),
    }
    if len(node.inputs) == 1:
        low.call(embed(), reads=[y], writes=[y], tokens=low.step.tokens, **own, **out)
        return
    x, middle = low.input(node, 1), state.middle()
    columns = round_up(x.width, UNROLL)
    own |= {"x": x.array, "x_stride": x.stride, "middle": middle, "middle_stride": state.middle_stride}
    sizes: dict[str, FieldValue] = {"columns": columns, "stride_a": columns}
    low.call(shrink(), reads=[x], writes=[middle], most_groups=state.most_groups, **sizes, **own)
    low.call(expand(), reads=[x, middle, y], writes=[y], **own, **out)
