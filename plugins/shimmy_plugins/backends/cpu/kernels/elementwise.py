"""add and swiglu: lane by lane over all rows, padding included (0 + 0 and silu(0) * 0 are 0)."""

from __future__ import annotations

from collections.abc import Callable

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import exp
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES, Value


def _kernel(name: str, function: Callable[[Value, Value], Value]) -> Kernel:
    def body(_e: Emitter, f: Fields, work: Work) -> None:
        a, b, y = (f.pointer(operand) for operand in "aby")
        with work.claim(f.count("rows") * f.size("vectors")) as i:
            y[i * LANES] = function(a.vector(i * LANES), b.vector(i * LANES))

    return Kernel(name, ("rows", "vectors", "a", "b", "y"), body)


def _swiglu(gate: Value, up: Value) -> Value:
    return gate / (exp(-gate) + 1.0) * up


KERNELS = {
    "add": _kernel("add", lambda a, b: a + b),
    "swiglu": _kernel("swiglu", _swiglu),
}


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    a, b, y = low.input(node, 0), low.input(node, 1), low.output(node)
    low.call(
        KERNELS[node.op],
        reads=[a, b],
        writes=[y],
        rows=y.rows,
        vectors=y.stride // LANES,
        a=a.array,
        b=b.array,
        y=y.array,
    )
