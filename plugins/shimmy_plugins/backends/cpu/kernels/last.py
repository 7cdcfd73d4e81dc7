"""last: copies the rows whose logits are wanted."""

from __future__ import annotations

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import I32, I64, LANES


def _body(e: Emitter, f: Fields, work: Work) -> None:
    with work.claim(f.count("rows")) as row:
        wanted = f.pointer("outputs", I32)[row].widen(I64)
        x, y = f.pointer("x") + wanted * f.size("x_stride"), f.pointer("y") + row * f.size("y_stride")
        with e.loop(0, f.size("padded"), LANES) as i:
            y[i] = x.vector(i)


KERNEL = Kernel("last", ("rows", "outputs", "x", "x_stride", "y", "y_stride", "padded"), _body)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node: from here on there are as many rows as outputs."""
    x, y = low.input(node), low.output(node, rows=low.step.output_rows)
    low.call(
        KERNEL,
        reads=[x],
        writes=[y],
        rows=y.rows,
        outputs=low.step.outputs,
        x=x.array,
        x_stride=x.stride,
        y=y.array,
        y_stride=y.stride,
        padded=y.padded,
    )
