"""linear: y = x @ weight.T + bias, for any run layout and any number of rows of x; here in F32.

One skeleton: for 16 rows of the weight at a time, for a tile of up to 8 rows of x at a time, walk
the blocks of columns. A fragment of weights is unpacked once and used by the whole tile. With
weight = scale * code + offset in a group of columns,

    y = sum over groups of (scale * sum(code * x) + offset * sum(x))

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
from shimmy_plugins.backends.cpu.kernels.fragments import BYTE, strip
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
def kernel(layout: Layout, accumulators: int) -> Kernel:
    """The kernel for a layout, where so many accumulators fit the registers."""
    sizes = [size for size in (8, 4, 2, 1) if size * _ACCUMULATORS <= accumulators]

    def body(e: Emitter, f: Fields, work: Work) -> None:
        # Each thread sums for itself: that is quick, and saves the threads a meeting.
        sums = f.pointer("sums") + work.thread * f.size("sums_stride")
        if isinstance(layout, AffineLayout):
            _sum_groups(e, f, sums, layout)
        rows = f.count("rows")
        with work.claim(f.size("groups")) as group:
            for row, size in tiles(e, rows, sizes):
                _tile(e, f, layout, group, [row + t for t in range(size)], sums)

    return Kernel(f"linear_{layout.name}_{accumulators}", _FIELDS, body)


def _sum_groups(e: Emitter, f: Fields, sums: Pointer, layout: AffineLayout) -> None:
    """sums[row, group] = sum of x over the columns of a group"""
    groups = f.size("blocks") * (layout.columns // layout.group)
    with e.loop(0, f.count("rows")) as row:
        x = f.pointer("x") + row * f.size("x_stride")
        with e.loop(0, groups) as group:
            vectors = [x.vector(group * layout.group + i) for i in range(0, layout.group, LANES)]
            sums[row * groups + group] = sum_lanes(sum(vectors[1:], vectors[0]))


def _tile(e: Emitter, f: Fields, layout: Layout, group: Value, rows: list[Value], sums: Pointer) -> None:
    """y of some rows of x at 16 rows of the weight."""
    blocks = f.size("blocks")
    weight = f.pointer("weight", BYTE) + group * blocks * layout.block.itemsize
    x = [f.pointer("x") + row * f.size("x_stride") for row in rows]
    bias = f.pointer("bias").vector(group * LANES)
    totals = [e.variable(bias) for _ in rows]
    with e.loop(0, blocks) as b, e.loop(0, layout.strips) as s:
        weights, at = strip(layout, weight + b * layout.block.itemsize, s), b * layout.strips + s
        for part in range(layout.strip_groups):
            column = at * layout.strip + part * (layout.strip // layout.strip_groups)
            dots = _dot_group(e, weights.columns(part), [p + column for p in x])
            for row, total, dot in zip(rows, totals, dots, strict=True):
                group_at = (row * blocks * layout.strips + at) * layout.strip_groups + part
                x_sum = sums[group_at].splat() if isinstance(layout, AffineLayout) else dot
                total.value = weights.add(part, total.value, dot, x_sum)
    for row, total in zip(rows, totals, strict=True):
        f.pointer("y")[row * f.size("y_stride") + group * LANES] = total.value


def _dot_group(e: Emitter, columns: Iterator[Value], x: list[Pointer]) -> list[Value]:
    """sum(code * x) over a group of columns, for each x: even and odd columns apart, then together."""
    even, odd = ([e.floats(0.0)] * len(x) for _ in range(2))
    for i, code in enumerate(columns):
        sums = odd if i % 2 else even
        sums[:] = [e.fma(code, at[i].splat(), total) for at, total in zip(x, sums, strict=True)]
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
        kernel(layout, low.target.accumulators),
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
