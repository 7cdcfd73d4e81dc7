"""The input of experts, brought into the order of a routing: as floats, or rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Iterator

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.quantize import quantized, record_at
from shimmy_plugins.backends.cpu.kernels.routing import Gathered, Routing
from shimmy_plugins.backends.cpu.layouts import STRIP_COLUMNS
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import I8, I32, I64, LANES, Pointer, Value

_FIELDS = ("rows", "used", "places", "x", "x_stride", "apart", "columns", "y")


def _entries(f: Fields, work: Work) -> Iterator[tuple[Value, Pointer]]:
    """The place of each entry of this thread, and its row of x."""
    used = f.size("used")
    with work.claim(f.count("rows") * used) as entry:
        x = f.pointer("x") + (entry // used * f.size("x_stride") + entry % used * f.size("apart"))
        yield f.pointer("places", I32)[entry].widen(I64), x


def _floats(e: Emitter, f: Fields, work: Work) -> None:
    columns = f.size("columns")
    for place, x in _entries(f, work):
        y = f.pointer("y") + place * f.size("y_stride")
        with e.loop(0, columns, LANES) as i:
            left = e.minimum(columns - i, e.int(LANES))
            y.put_first(left, x.first(left, i), i)


def _records(e: Emitter, f: Fields, work: Work) -> None:
    columns, blocks = f.size("columns"), f.size("blocks")
    for place, x in _entries(f, work):
        with e.loop(0, blocks) as block:
            # An expert's row is followed by the next one's: what lies behind it must not be read.
            left = columns - block * STRIP_COLUMNS
            counts = (e.minimum(left, e.int(LANES)), e.maximum(left, e.int(LANES)) - LANES)
            halves = [x.first(count, block * STRIP_COLUMNS + i * LANES) for i, count in enumerate(counts)]
            record_at(f.pointer("y", I8), place, block, blocks).fill(halves)


def _copies(e: Emitter, f: Fields, work: Work) -> None:
    used, blocks = f.size("used"), f.size("blocks")
    with work.claim(f.count("rows") * used) as entry, e.loop(0, blocks) as block:
        rows = {"x": entry // used, "y": f.pointer("places", I32)[entry].widen(I64)}
        x, y = (record_at(f.pointer(name, I8), row, block, blocks).at for name, row in rows.items())
        y.cast(I32)[0] = x.cast(I32).vector()


FLOATS = Kernel("gather_floats", (*_FIELDS, "y_stride"), _floats)
RECORDS = Kernel("gather_records", (*_FIELDS, "blocks"), _records)
#: Where all experts have the same input, it is rounded once.
COPIES = Kernel("gather_copies", ("rows", "used", "places", "x", "y", "blocks"), _copies)


def gathered(low: Lowering, node: Node, order: Routing, columns: int, *, rounded: bool) -> Gathered:
    """The first input of ``node``, a row for all or one for each expert; recorded once for nodes in a row."""
    blocks = -(-columns // STRIP_COLUMNS)
    found = order.records(blocks) if rounded else order.floats(columns)
    nodes = (node.inputs[0], node.inputs[1])
    if found.nodes == nodes:
        return found
    found.nodes = nodes
    x, shared = low.input(node), len(low.shape(node.inputs[0])) == 1
    fields: dict[str, FieldValue] = {
        "rows": x.rows,
        "used": order.places.shape[1],
        "places": order.places,
        "y": found.array,
    }
    if rounded and shared:
        rows = quantized(low, node)
        low.call(COPIES, reads=[rows, order], writes=[found], x=rows.records, blocks=blocks, **fields)
        return found
    fields |= {"x": x.array, "x_stride": x.stride, "apart": 0 if shared else columns, "columns": columns}
    if rounded:
        low.call(RECORDS, reads=[x, order], writes=[found], blocks=blocks, **fields)
    else:
        low.call(FLOATS, reads=[x, order], writes=[found], y_stride=found.array.shape[1], **fields)
    return found
