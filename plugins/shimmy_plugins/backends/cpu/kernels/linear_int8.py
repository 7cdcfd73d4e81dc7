"""linear with activations of 8 bits: products and sums of a group of columns are exact integers.

The skeleton is that of ``linear``: 16 rows of the weight, a tile of rows of x, block after block.
With weight = scale * number + offset and x = x_scale * x_code in a group of columns,

    y = sum over groups of (scale * x_scale * sum(number * x_code) + offset * x_scale * sum(x_code))

and where offset = scale * -zero, the integers take that in: sum((number - zero) * x_code). Groups are
added in F32, always one after the other, so a row's bits depend neither on the tile it is in nor on
the instructions that multiply its integers.
"""

from __future__ import annotations

from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.dot import DOTS
from shimmy_plugins.backends.cpu.kernels.fragments import BYTE, AffineStrip
from shimmy_plugins.backends.cpu.kernels.outputs import RowGroup, Rows
from shimmy_plugins.backends.cpu.kernels.quantize import PANEL, RECORD, Record, quantized, record_at
from shimmy_plugins.backends.cpu.kernels.tiles import tiles
from shimmy_plugins.backends.cpu.layouts import AffineLayout
from shimmy_plugins.backends.cpu.loading import Matrix
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import ALIGNMENT
from shimmy_plugins.backends.cpu.values import LANES, Value, Variable

_FIELDS = ("rows", "x", "y", "y_stride", "weight", "groups", "blocks", "bias")


#: Larger tiles compute so long on a block that the processor sees too little of the next ones: they
#: ask for weights so many bytes before they need them.
_LARGE, _AHEAD = 4, 2048


@cache
def kernel(layout: AffineLayout, dot: str, accumulators: int) -> Kernel:
    """The kernel for a layout, where so many accumulators fit the registers."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        product = IntegerProduct(e, f, layout, dot, accumulators)
        rows = f.count("rows")
        with work.claim(f.size("groups")) as group:
            product.rows(RowGroup.of(f, layout, group, Rows(f)), e.int(0), rows)

    return Kernel(f"linear_int8_{layout.name}_{dot}_{accumulators}", _FIELDS, body)


class IntegerProduct:
    """Emits the products of some rows of x with 16 rows of a weight."""

    def __init__(self, e: Emitter, f: Fields, layout: AffineLayout, dot: str, accumulators: int) -> None:
        self._e, self._f, self._layout, self._dot = e, f, layout, dot
        self._wide = accumulators >= 2 * PANEL

    def rows(self, group: RowGroup, first: Value, rows: Value) -> None:
        """y of rows from ``first`` on, where a panel begins, at a group of rows of the weight."""
        # No tile reaches into another panel: after those of a whole panel, less than a panel is left.
        sizes = (PANEL, 8, 4, 2, 1) if self._wide else (PANEL, 4, 2, 1)
        for row, size in tiles(self._e, rows, sizes):
            # Where registers are few, the codes of 8 rows of the weight stay in them, not those of 16.
            lanes = LANES if self._wide or size == 1 else LANES // 2
            with self._e.loop(0, LANES, lanes) as lane:
                self._tile(group, lane, lanes, [first + row + t for t in range(size)])

    def _tile(self, group: RowGroup, lane: Value, lanes: int, rows: list[Value]) -> None:
        """y of some rows of x at some rows of the weight, from ``lane`` on."""
        e, f, layout = self._e, self._f, self._layout
        blocks = f.size("blocks")
        x = record_at(f.pointer("x", BYTE), rows[0], e.int(0), blocks * layout.strips).at
        column = group.number * LANES + lane
        start = group.output.start(column, lanes)
        totals = [e.variable(start) for _ in rows]
        strip_bytes = layout.block.itemsize // layout.strips
        with e.loop(0, blocks) as b, e.loop(0, layout.strips) as s:
            block = group.weight + b * layout.block.itemsize
            if len(rows) >= _LARGE:
                for line in range(0, strip_bytes, ALIGNMENT):
                    (block + s * strip_bytes).prefetch(_AHEAD + line)
            first = x + (b * layout.strips + s) * (PANEL * RECORD.itemsize)
            records = [Record(first + r * RECORD.itemsize, lanes) for r in range(len(rows))]
            self._add_strip(AffineStrip(layout, block, s, self._dot, lane, lanes), records, totals)
        for row, total in zip(rows, totals, strict=True):
            group.output.put(row, column, total.value)

    def _add_strip(self, weights: AffineStrip, records: list[Record], totals: list[Variable]) -> None:
        """Add a strip's share to the total of each record's row."""
        e, layout = self._e, weights.layout
        groups, zero = layout.strip_groups, layout.offsets
        for part in range(groups):
            numbers = list(weights.quads(part))
            scale = weights.scale(part)
            for record, total in zip(records, totals, strict=True):
                x = [record.quad(part * len(numbers) + i) for i in range(len(numbers))]
                start = record.minus_sum(part, groups)
                start = start * (zero if isinstance(zero, int) else 0)
                dot = DOTS[self._dot](e, start, numbers, x, layout.number_bits).to_float(signed=True)
                total.value = e.fma(dot, scale * record.scale, total.value)
                if not isinstance(zero, int):
                    total.value = e.fma(weights.offset(part), record.sum(part, groups), total.value)


def lower(low: Lowering, node: Node, matrix: Matrix) -> None:
    """Record the calls for a node: quantise its input, unless that has been done, and multiply."""
    assert isinstance(matrix.layout, AffineLayout)
    low.rounds = True
    x, y = quantized(low, node), low.output(node)
    groups, blocks = matrix.data.shape
    low.call(
        kernel(matrix.layout, low.target.dot, low.target.accumulators),
        reads=[x],
        writes=[y],
        rows=y.rows,
        x=x.records,
        y=y.array,
        y_stride=y.stride,
        weight=matrix.data,
        groups=groups,
        blocks=blocks,
        bias=low.bias(node),
    )
