"""slice: some columns of a row, mostly a view."""

from __future__ import annotations

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES


def _body(e: Emitter, f: Fields, work: Work) -> None:
    size = f.size("size")
    with work.claim(f.count("rows")) as row:
        x = f.pointer("x") + (row * f.size("x_stride") + f.size("start"))
        y = f.pointer("y") + row * f.size("y_stride")
        with e.loop(0, size, LANES) as i:
            left = e.minimum(size - i, e.int(LANES))
            y.put_first(left, x.first(left, i), i)


KERNEL = Kernel("slice", ("rows", "start", "size", "x", "x_stride", "y", "y_stride"), _body)


def lower(low: Lowering, node: Node) -> None:
    """A view where whole blocks of columns are wanted; otherwise record the call that copies them."""
    x, start, size = low.input(node), node.attrs["start"], node.attrs["size"]
    if part := x.part(start, size):
        low.alias(node, part)
        return
    y = low.output(node)
    low.call(
        KERNEL,
        reads=[x],
        writes=[y],
        rows=y.rows,
        start=start,
        size=size,
        x=x.array,
        x_stride=x.stride,
        y=y.array,
        y_stride=y.stride,
    )
