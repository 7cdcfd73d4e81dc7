"""Ops that compute lane by lane: padding may be computed along, since all of them give 0 for zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.functions import exp, tanh
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import LANES, Pointer, Value

#: Vectors of a row that a thread takes at a time.
_PART = 16


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An op of tensors alike, called with a vector of each.

    With ``attr`` it takes that attr as another vector. With ``gated`` the last input has one number
    for each row, in every lane.
    """

    inputs: int
    function: Callable[..., Value]
    attr: str | None = None
    gated: bool = False

    def kernel(self, name: str) -> Kernel:
        """Rows by parts of them."""
        operands = [*(f"x{i}" for i in range(self.inputs)), "y"]
        fields = ["rows", "vectors", *operands, *(f"{operand}_stride" for operand in operands)]

        def body(e: Emitter, f: Fields, work: Work) -> None:
            vectors = f.size("vectors")
            parts = (vectors + (_PART - 1)) // _PART
            more = [f.float("attr").splat()] if self.attr else []
            with work.claim(f.count("rows") * parts) as item:
                row, first = item // parts, item % parts * _PART
                *x, y = (f.pointer(o) + row * f.size(f"{o}_stride") for o in operands)
                with e.loop(first, e.minimum(first + _PART, vectors)) as i:
                    y[i * LANES] = self.function(*self._vectors(x, i * LANES), *more)

        return Kernel(name, (*fields, *["attr"] * bool(self.attr)), body)

    def _vectors(self, x: list[Pointer], at: Value) -> list[Value]:
        if not self.gated:
            return [pointer.vector(at) for pointer in x]
        return [*(pointer.vector(at) for pointer in x[:-1]), x[-1][0].splat()]


def _gelu(x: Value) -> Value:
    """0.5 x (1 + tanh(u)) is x / (1 + e^-2u), which keeps its digits where tanh(u) is near -1."""
    e = x.emitter
    cubic = e.fma(x * x, e.floats(0.044715), e.floats(1.0))
    return x / (exp(x * cubic * (-2 * sqrt(2 / pi))) + 1.0)


def _sigmoid_gate(x: Value, gate: Value) -> Value:
    return x / (exp(-gate) + 1.0)


OPS = {
    "add": Elementwise(2, lambda a, b: a + b),
    "swiglu": Elementwise(2, lambda gate, up: gate / (exp(-gate) + 1.0) * up),
    "gelu": Elementwise(1, _gelu),
    "geglu": Elementwise(2, lambda gate, up: _gelu(gate) * up),
    "scale": Elementwise(1, lambda x, factor: x * factor, attr="factor"),
    "softcap": Elementwise(1, lambda x, cap: tanh(x / cap) * cap, attr="cap"),
    "sigmoid_gate": Elementwise(2, _sigmoid_gate, gated=True),
}
KERNELS = {name: op.kernel(name) for name, op in OPS.items()}


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node."""
    op, x, y = OPS[node.op], [low.input(node, i) for i in range(len(node.inputs))], low.output(node)
    operands = {**{f"x{i}": tensor for i, tensor in enumerate(x)}, "y": y}
    fields: dict[str, FieldValue] = {name: tensor.array for name, tensor in operands.items()}
    fields |= {f"{name}_stride": tensor.stride for name, tensor in operands.items()}
    if op.attr:
        fields["attr"] = float(node.attrs[op.attr])
    low.call(KERNELS[node.op], reads=x, writes=[y], rows=y.rows, vectors=y.padded // LANES, **fields)
