"""rope: rotates pairs of a head's first dimensions by angles from a table made for the step.

Pair i is dimensions (2i, 2i + 1) when interleaved, (i, i + pairs) in halves. 16 pairs are rotated at
once, and then what is left one by one.
"""

from __future__ import annotations

from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES, Pointer, Value

_FIELDS = (
    "rows", "heads", "head_dim", "pairs", "x", "x_stride", "y", "y_stride", "cos", "sin",
)  # fmt: skip


@cache
def kernel(style: str) -> Kernel:
    """The kernel for a way to pair dimensions."""
    interleaved = style == "interleaved"

    def body(e: Emitter, f: Fields, work: Work) -> None:
        heads, head_dim, pairs = (f.size(name) for name in ("heads", "head_dim", "pairs"))
        with work.claim(f.count("rows") * heads) as item:
            row, head = item // heads, item % heads * head_dim
            x, y = (f.pointer(name) + (row * f.size(f"{name}_stride") + head) for name in "xy")
            cos, sin = (f.pointer(name) + row * pairs for name in ("cos", "sin"))
            whole = pairs // LANES * LANES
            with e.loop(0, whole, LANES) as i:
                both = _load(x, i, pairs, interleaved=interleaved)
                turned = _rotated(e, *both, cos.vector(i), sin.vector(i))
                _store(y, i, pairs, *turned, interleaved=interleaved)
            with e.loop(whole, pairs) as i:
                first, second = (i * 2, i * 2 + 1) if interleaved else (i, i + pairs)
                y[first], y[second] = _rotated(e, x[first], x[second], cos[i], sin[i])
            with e.loop(pairs * 2, head_dim) as i:
                y[i] = x[i]

    return Kernel(f"rope_{style}", _FIELDS, body)


def _rotated(e: Emitter, a: Value, b: Value, cos: Value, sin: Value) -> tuple[Value, Value]:
    return e.fma(a, cos, -(b * sin)), e.fma(a, sin, b * cos)


def _load(x: Pointer, i: Value, pairs: Value, *, interleaved: bool) -> tuple[Value, Value]:
    """16 pairs from number ``i`` on."""
    if interleaved:
        return x.vector(i * 2, 2 * LANES).unwoven()
    return x.vector(i), x.vector(i + pairs)


def _store(y: Pointer, i: Value, pairs: Value, a: Value, b: Value, *, interleaved: bool) -> None:
    if interleaved:
        y[i * 2] = a.woven(b)
    else:
        y[i], y[i + pairs] = a, b


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    x, y = low.input(node), low.output(node)
    heads, head_dim = node.shape
    dims, factors = node.attrs["dims"], node.weights.get("factors")
    values = low.weights.vector(factors)[: dims // 2] if factors else None
    table = low.step.rope_table(node.attrs["base"], dims, node.attrs["scaling"], values)
    low.call(
        kernel(node.attrs["style"]),
        reads=[x],
        writes=[y],
        rows=y.rows,
        heads=heads,
        head_dim=head_dim,
        pairs=dims // 2,
        x=x.array,
        x_stride=x.stride,
        y=y.array,
        y_stride=y.stride,
        cos=table.cos,
        sin=table.sin,
    )
