"""linear: y = x @ weight.T + bias, for any run layout and any number of rows of x; here in F32.

One skeleton: for 16 rows of the weight at a time, for a tile of up to 8 rows of x at a time, walk
the blocks of columns. A fragment of weights is unpacked once and used by the whole tile. With
weight = scale * number + offset in a group of columns,

    y = sum over groups of (scale * sum(number * x) + offset * sum(x))

where the sums of x over a group are computed first. The order of additions is fixed by the layout
alone: even and odd columns of a group in one chain each, added; then group after group. So a row's
bits do not depend on the tile it is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import sum_lanes
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels import linear_int8
from shimmy_plugins.backends.cpu.kernels.fragments import strip
from shimmy_plugins.backends.cpu.kernels.outputs import RowGroup, Rows
from shimmy_plugins.backends.cpu.kernels.tiles import tiles
from shimmy_plugins.backends.cpu.layouts import AffineLayout, Layout
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES, Pointer, Value

_FIELDS = (
    "rows", "x", "x_stride", "y", "y_stride", "weight", "groups", "blocks", "bias", "sums", "sums_stride",
)  # fmt: skip

#: Running sums for a row of x: of even columns, odd columns, and blocks.
_ACCUMULATORS = 3


@cache
def kernel(layout: Layout, instructions: str, accumulators: int) -> Kernel:
    """The kernel for a layout, where so many accumulators fit the registers.

    ``instructions`` look up the numbers of a codebook.
    """

    def body(e: Emitter, f: Fields, work: Work) -> None:
        product = FloatProduct(e, f, layout, instructions, accumulators, work.thread)
        rows = f.count("rows")
        product.sum_groups(e.int(0), rows)
        with work.claim(f.size("groups")) as group:
            product.rows(RowGroup.of(f, layout, group, Rows(f)), e.int(0), rows)

    return Kernel(f"linear_{layout.name}_{instructions}_{accumulators}", _FIELDS, body)


class FloatProduct:
    """Emits the products of some rows of x with 16 rows of a weight."""

    def __init__(
        self,
        e: Emitter,
        f: Fields,
        layout: Layout,
        instructions: str,
        accumulators: int,
        thread: Value,
    ) -> None:
        self._e, self._f, self._layout, self._instructions = e, f, layout, instructions
        self._sizes = [size for size in (8, 4, 2, 1) if size * _ACCUMULATORS <= accumulators]
        # Each thread sums for itself: that is quick, and saves the threads a meeting.
        self._sums = f.pointer("sums") + thread * f.size("sums_stride")

    def sum_groups(self, first: Value, rows: Value) -> None:
        """sums[row, group] = sum of x over the columns of a group, where products need it."""
        e, f, layout = self._e, self._f, self._layout
        if not isinstance(layout, AffineLayout):
            return
        groups = f.size("blocks") * (layout.columns // layout.group)
        with e.loop(first, first + rows) as row:
            x = f.pointer("x") + row * f.size("x_stride")
            with e.loop(0, groups) as group:
                vectors = [x.vector(group * layout.group + i) for i in range(0, layout.group, LANES)]
                self._sums[row * groups + group] = sum_lanes(sum(vectors[1:], vectors[0]))

    def rows(self, group: RowGroup, first: Value, rows: Value) -> None:
        """y of rows from ``first`` on at a group of rows of the weight."""
        for row, size in tiles(self._e, rows, self._sizes):
            self._tile(group, [first + row + t for t in range(size)])

    def _tile(self, group: RowGroup, rows: list[Value]) -> None:
        e, f, layout = self._e, self._f, self._layout
        blocks = f.size("blocks")
        x = [f.pointer("x") + row * f.size("x_stride") for row in rows]
        first = group.number * LANES
        start = group.output.start(first, LANES)
        totals = [e.variable(start) for _ in rows]
        with e.loop(0, blocks) as b, e.loop(0, layout.strips) as s:
            block, at = group.weight + b * layout.block.itemsize, b * layout.strips + s
            weights = strip(layout, block, s, self._instructions)
            for part in range(layout.strip_groups):
                column = at * layout.strip + part * (layout.strip // layout.strip_groups)
                dots = _dot_group(e, weights.columns(part), [p + column for p in x])
                for row, total, dot in zip(rows, totals, dots, strict=True):
                    group_at = (row * blocks * layout.strips + at) * layout.strip_groups + part
                    x_sum = self._sums[group_at].splat() if isinstance(layout, AffineLayout) else dot
                    total.value = weights.add(part, total.value, dot, x_sum)
        for row, total in zip(rows, totals, strict=True):
            group.output.put(row, first, total.value)


def _dot_group(e: Emitter, columns: Iterator[Value], x: list[Pointer]) -> list[Value]:
    """sum(number * x) over a group of columns, for each x: even and odd columns apart, then together."""
    even, odd = ([e.floats(0.0)] * len(x) for _ in range(2))
    for i, number in enumerate(columns):
        sums = odd if i % 2 else even
        sums[:] = [e.fma(number, at[i].splat(), total) for at, total in zip(x, sums, strict=True)]
    return [a + b for a, b in zip(even, odd, strict=True)]


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    matrix = low.weights.matrix(node.weights["weight"])
    if low.precision == "int8" and isinstance(matrix.layout, AffineLayout):
        linear_int8.lower(low, node, matrix)
        return
    x, y = low.input(node), low.output(node)
    groups, blocks = matrix.data.shape
    layout = matrix.layout
    sums, sums_stride = low.scratch(low.limits.step_tokens * blocks * layout.strips * layout.strip_groups)
    low.call(
        kernel(layout, low.target.dot, low.target.accumulators),
        reads=[x],
        writes=[y],
        rows=y.rows,
        x=x.array,
        x_stride=x.stride,
        y=y.array,
        y_stride=y.stride,
        weight=matrix.data,
        groups=groups,
        blocks=blocks,
        bias=low.bias(node),
        sums=sums,
        sums_stride=sums_stride,
    )
