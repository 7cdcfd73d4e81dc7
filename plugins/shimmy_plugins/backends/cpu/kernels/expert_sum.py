"""expert_sum: the rows of the chosen experts times their weights, added in the order of the choice."""

from __future__ import annotations

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES

_FIELDS = ("rows", "used", "size", "x", "x_stride", "chosen", "chosen_stride", "y", "y_stride")


def _body(e: Emitter, f: Fields, work: Work) -> None:
    size, used = f.size("size"), f.size("used")
    with work.claim(f.count("rows")) as row:
        x, y = (f.pointer(name) + row * f.size(f"{name}_stride") for name in "xy")
        weights = f.pointer("chosen") + (row * f.size("chosen_stride") + used)
        with e.loop(0, size, LANES) as i:
            left = e.minimum(size - i, e.int(LANES))
            total = e.variable(e.floats(0.0))
            with e.loop(0, used) as number:
                expert = x.first(left, number * size + i)
                total.value = total.value + expert * weights[number].splat()
            y.put_first(left, total.value, i)


KERNEL = Kernel("expert_sum", _FIELDS, _body)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    x, chosen, y = low.input(node), low.input(node, 1), low.output(node)
    used, size = low.shape(node.inputs[0])
    low.call(
        KERNEL,
        reads=[x, chosen],
        writes=[y],
        rows=y.rows,
        used=used,
        size=size,
        x=x.array,
        x_stride=x.stride,
        chosen=chosen.array,
        chosen_stride=chosen.stride,
        y=y.array,
        y_stride=y.stride,
    )
