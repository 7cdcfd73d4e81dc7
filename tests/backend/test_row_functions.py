"""Functions of single numbers on the CPU engine, beside float64: all over the range, and far outside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.gguf.quant import FloatRun
from shimmy.graph.builder import Graph, Value
from shimmy_plugins.backends.cpu.jit import Target
from tests.backend.harness import MadeUpWeights, Part, batch_of, compile_graph, graph_of, rows_of

F64 = NDArray[np.float64]
CAP = 30.0

pytestmark = pytest.mark.skipif(Target.host().problem() is not None, reason="the cpu backend cannot run here")


def sigmoid(x: F64) -> F64:
    return 1 / (1 + np.exp(-x.clip(-700)))


def gelu(x: F64) -> F64:
    # 0.5 (1 + tanh(u)) is sigmoid(2 u), which float64 knows where tanh(u) is next to -1.
    return x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


#: How each op is recorded, and what it means.
FUNCTIONS: dict[str, tuple[Callable[[Graph, Value], Value], Callable[[F64], F64]]] = {
    "gelu": (lambda g, x: g.gelu(x), gelu),
    "geglu": (lambda g, x: g.geglu(x, x), lambda x: gelu(x) * x),
    "swiglu": (lambda g, x: g.swiglu(x, x), lambda x: x * sigmoid(x) * x),
    "softcap": (lambda g, x: g.softcap(x, CAP), lambda x: CAP * np.tanh(x / CAP)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_number(name: str) -> None:
    """To some units in the last place; results that F32 holds with fewer digits, to these."""
    build, formula = FUNCTIONS[name]
    numbers = np.concatenate(
        [np.linspace(-20, 20, 4001), np.logspace(-30, 18, 97), -np.logspace(-30, 18, 97)]
    )
    x = numbers.astype(np.float32)[None]
    weights = MadeUpWeights(a=FloatRun(x))
    plan = compile_graph("cpu", graph_of(weights, lambda g: build(g, g.embed("a"))), weights)
    plan.reserve(1)
    found = rows_of(plan, batch_of([Part([0])]))
    plan.close()
    # An exponent of 80 magnifies its rounding as much; e^x ends a little before F32 does.
    np.testing.assert_allclose(found, formula(x.astype(np.float64)), rtol=2e-5, atol=1e-36)


def test_gates_of_every_size() -> None:
    gates = np.array([[-1e30], [-200], [-88], [-1], [0], [1], [88], [1e30]], np.float32)
    ones = np.ones((len(gates), 33), np.float32)
    weights = MadeUpWeights(a=FloatRun(ones), b=FloatRun(gates))
    plan = compile_graph(
        "cpu", graph_of(weights, lambda g: g.sigmoid_gate(g.embed("a"), g.embed("b"))), weights
    )
    plan.reserve(1)
    found = rows_of(plan, batch_of([Part(range(len(gates)))], every_row=True))
    plan.close()
    np.testing.assert_allclose(found, ones * sigmoid(gates.astype(np.float64)), rtol=1e-6, atol=1e-37)
