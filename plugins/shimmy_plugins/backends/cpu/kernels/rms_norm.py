"""rms_norm: y = x / sqrt(mean(x^2) + eps) * weight, over the last axis of a row or of its heads."""

from __future__ import annotations

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import sum_lanes
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES


def _body(e: Emitter, f: Fields, work: Work) -> None:
    parts, size = f.size("parts"), f.size("size")
    with work.claim(f.count("rows") * parts) as item:
        row, start = item // parts, item % parts * size
        x = f.pointer("x") + (row * f.size("x_stride") + start)
        y = f.pointer("y") + (row * f.size("y_stride") + start)
        squares = e.variable(e.floats(0.0))
        with e.loop(0, size, LANES) as i:
            v = x.first(e.minimum(size - i, e.int(LANES)), i)
            squares.value = e.fma(v, v, squares.value)
        mean = sum_lanes(squares.value) / f.size("size").to_float()
        root = e.sqrt(mean + f.float("eps")).splat()
        with e.loop(0, size, LANES) as i:
            left = e.minimum(size - i, e.int(LANES))
            y.put_first(left, x.first(left, i) / root * f.pointer("weight").vector(i), i)


KERNEL = Kernel(
    "rms_norm", ("rows", "parts", "size", "x", "x_stride", "y", "y_stride", "weight", "eps"), _body
)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    record(low, node, KERNEL)


def record(low: Lowering, node: Node, kernel: Kernel, **more: FieldValue) -> None:
    """The call of a norm, which may have ``more`` fields; of heads, each is a part with a norm of its own."""
    x, y = low.input(node), low.output(node)
    size = node.shape[-1]
    low.call(
        kernel,
        reads=[x],
        writes=[y],
        rows=y.rows,
        parts=x.width // size,
        size=size,
        x=x.array,
        x_stride=x.stride,
        y=y.array,
        y_stride=y.stride,
        weight=low.weights.vector(node.weights["weight"]),
        eps=float(node.attrs["eps"]),
        **more,
    )
