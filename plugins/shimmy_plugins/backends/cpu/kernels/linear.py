"""linear: y = x @ weight.T + bias, for any run layout and any number of rows of x.

One skeleton: for 16 rows of the weight at a time, for a tile of up to 8 rows of x at a time, walk
the blocks of columns. A fragment of weights is unpacked once and used by the whole tile. With
weight = scale * code + offset in a block,

    y = sum over blocks of (scale * sum(code * x) + offset * sum(x))

where the sums of x over a block are computed first. The order of additions is fixed by the layout
alone: even and odd columns of a block in one chain each, added; then block after block. So a row's
bits do not depend on the tile it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import LANES, Emitter, Pointer, Value, Variable
from shimmy_plugins.backends.cpu.functions import sum_lanes
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.fragments import BYTE, Fragment, fragment
from shimmy_plugins.backends.cpu.layouts import Layout
from shimmy_plugins.backends.cpu.lowering import Lowering

_FIELDS = (
    "rows", "x", "x_stride", "y", "y_stride", "weight", "groups", "blocks", "bias", "sums", "sums_stride",
)  # fmt: skip

#: Running sums for a row of x: of even columns, odd columns, and blocks.
_ACCUMULATORS = 3
#: Multiply-adds emitted in a row at least; more only makes the code longer.
_UNROLL = 32


@cache
def kernel(layout: Layout, accumulators: int) -> Kernel:
    """The kernel for a layout, where so many accumulators fit the registers."""
    weights = fragment(layout)
    tiles = [tile for tile in (8, 4, 2, 1) if tile * _ACCUMULATORS <= accumulators]

    def body(e: Emitter, f: Fields, work: Work) -> None:
        rows, blocks = f.count("rows"), f.size("blocks")
        # Each thread sums for itself: that is quick, and saves the threads a meeting.
        sums = f.pointer("sums") + work.thread * f.size("sums_stride")
        begin, end = work.share(f.size("groups"))
        if weights.grouped:
            with e.when(begin < end):
                _sum_blocks(e, f, sums, layout.columns)
        with e.loop(begin, end) as group:
            weight = f.pointer("weight", BYTE) + group * blocks * layout.block.itemsize
            row = e.variable(e.int(0))
            for tile in tiles:
                with e.loop_while(_left(row, rows, tile)):
                    tile_rows = [row.value + t for t in range(tile)]
                    _tile(e, f, weights, layout, weight, group, tile_rows, sums)
                    row.value = row.value + tile

    return Kernel(f"linear_{layout.name}_{accumulators}", _FIELDS, body)


def _left(row: Variable, rows: Value, tile: int) -> Callable[[], Value]:
    """The condition that a whole tile is left."""
    return lambda: row.value + (tile - 1) < rows


def _sum_blocks(e: Emitter, f: Fields, sums: Pointer, columns: int) -> None:
    """sums[row, block] = sum of x over the block's columns"""
    blocks = f.size("blocks")
    with e.loop(0, f.count("rows")) as row:
        x = f.pointer("x") + row * f.size("x_stride")
        with e.loop(0, blocks) as block:
            vectors = [x.vector(block * columns + i) for i in range(0, columns, LANES)]
            sums[row * blocks + block] = sum_lanes(sum(vectors[1:], vectors[0]))


def _tile(
    e: Emitter,
    f: Fields,
    weights: Fragment,
    layout: Layout,
    weight: Pointer,
    group: Value,
    rows: list[Value],
    sums: Pointer,
) -> None:
    """y of some rows of x at 16 rows of the weight."""
    x = [f.pointer("x") + row * f.size("x_stride") for row in rows]
    bias = f.pointer("bias").vector(group * LANES)
    totals = [e.variable(bias) for _ in rows]
    with e.loop(0, f.size("blocks")) as b:
        block = weight + b * layout.block.itemsize
        dots = _dot_block(e, weights, layout.columns, block, [p + b * layout.columns for p in x])
        for row, total, dot in zip(rows, totals, dots, strict=True):
            x_sum = sums[row * f.size("blocks") + b].splat() if weights.grouped else dot
            total.value = weights.add(block, total.value, dot, x_sum)
    for row, total in zip(rows, totals, strict=True):
        f.pointer("y")[row * f.size("y_stride") + group * LANES] = total.value


def _dot_block(e: Emitter, weights: Fragment, columns: int, block: Pointer, x: list[Pointer]) -> list[Value]:
    """sum(code * x) over a block, for each x: even and odd columns apart, then together."""
    zero = e.floats(0.0)
    even, odd = ([e.variable(zero) for _ in x] for _ in range(2))
    unroll = min(columns // 2, max(_UNROLL // (2 * len(x)), 1))
    with e.loop(0, columns // 2, unroll) as first:
        for pair in (first + k for k in range(unroll)):
            codes = weights.pair(block, pair)
            for t, at in enumerate(x):
                _accumulate(e, even[t], codes[0], at[pair * 2])
                _accumulate(e, odd[t], codes[1], at[pair * 2 + 1])
    return [a.value + b.value for a, b in zip(even, odd, strict=True)]


def _accumulate(e: Emitter, total: Variable, code: Value, x: Value) -> None:
    total.value = e.fma(code, x.splat(), total.value)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    x, y = low.input(node), low.output(node)
    matrix = low.weights.matrix(node.weights["weight"])
    groups, blocks = matrix.data.shape
    bias = low.weights.vector(node.weights["bias"]) if "bias" in node.weights else low.zeros(y.stride)
    sums, sums_stride = low.scratch(low.limits.step_tokens * blocks)
    low.call(
        kernel(matrix.layout, low.accumulators),
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
        bias=bias,
        sums=sums,
        sums_stride=sums_stride,
    )
