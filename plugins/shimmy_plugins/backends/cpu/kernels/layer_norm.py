"""layer_norm: y = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias, over the last axis."""

from __future__ import annotations

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import sum_lanes
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels import rms_norm
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES

_FIELDS = ("rows", "parts", "size", "x", "x_stride", "y", "y_stride", "weight", "bias", "eps")


def _body(e: Emitter, f: Fields, work: Work) -> None:
    parts, size = f.size("parts"), f.size("size")
    with work.claim(f.count("rows") * parts) as item:
        row, start = item // parts, item % parts * size
        x = f.pointer("x") + (row * f.size("x_stride") + start)
        y = f.pointer("y") + (row * f.size("y_stride") + start)
        total, squares = (e.variable(e.floats(0.0)) for _ in range(2))
        with e.loop(0, size, LANES) as i:
            total.value = total.value + x.first(e.minimum(size - i, e.int(LANES)), i)
        mean = (sum_lanes(total.value) / size.to_float()).splat()
        with e.loop(0, size, LANES) as i:
            left = e.minimum(size - i, e.int(LANES))
            centred = e.select(e.lanes_below(left), x.first(left, i) - mean, e.floats(0.0))
            squares.value = e.fma(centred, centred, squares.value)
        root = e.sqrt(sum_lanes(squares.value) / size.to_float() + f.float("eps")).splat()
        with e.loop(0, size, LANES) as i:
            left = e.minimum(size - i, e.int(LANES))
            normal = (x.first(left, i) - mean) / root
            y.put_first(left, normal * f.pointer("weight").vector(i) + f.pointer("bias").vector(i), i)


KERNEL = Kernel("layer_norm", _FIELDS, _body)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    rms_norm.record(low, node, KERNEL, bias=low.bias(node))
