"""rope: rotates pairs of a head's first dimensions by angles from a table made for the step.

Pair i is dimensions (2i, 2i + 1) when interleaved, (i, i + pairs) in halves: i * spread, and
``apart`` further on.
"""

from __future__ import annotations

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering

_FIELDS = (
    "rows",
    "heads",
    "head_dim",
    "pairs",
    "spread",
    "apart",
    "x",
    "x_stride",
    "y",
    "y_stride",
    "cos",
    "sin",
)


def _body(e: Emitter, f: Fields, work: Work) -> None:
    heads, head_dim, pairs = (f.size(name) for name in ("heads", "head_dim", "pairs"))
    with work.claim(f.count("rows") * heads) as item:
        row = item // heads
        head = item % heads * head_dim
        x, y = (f.pointer(name) + (row * f.size(f"{name}_stride") + head) for name in "xy")
        cos, sin = (f.pointer(name) + row * pairs for name in ("cos", "sin"))
        with e.loop(0, pairs) as i:
            first = i * f.size("spread")
            second = first + f.size("apart")
            a, b = x[first], x[second]
            y[first] = e.fma(a, cos[i], -(b * sin[i]))
            y[second] = e.fma(a, sin[i], b * cos[i])
        with e.loop(pairs * 2, head_dim) as i:
            y[i] = x[i]


KERNEL = Kernel("rope", _FIELDS, _body)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    x, y = low.input(node), low.output(node)
    heads, head_dim = node.shape
    dims, factors = node.attrs["dims"], node.weights.get("factors")
    values = low.weights.vector(factors)[: dims // 2] if factors else None
    table = low.step.rope_table(node.attrs["base"], dims, node.attrs["scaling"], values)
    interleaved = node.attrs["style"] == "interleaved"
    low.call(
        KERNEL,
        reads=[x],
        writes=[y],
        rows=y.rows,
        heads=heads,
        head_dim=head_dim,
        pairs=dims // 2,
        spread=2 if interleaved else 1,
        apart=1 if interleaved else dims // 2,
        x=x.array,
        x_stride=x.stride,
        y=y.array,
        y_stride=y.stride,
        cos=table.cos,
        sin=table.sin,
    )
