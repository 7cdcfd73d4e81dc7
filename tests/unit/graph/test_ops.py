"""The NumPy definitions: against formulas written out in plain Python, row by row, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from shimmy.errors import GraphError
from shimmy.graph import experts, reference
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Value
from shimmy.graph.ops import CORE_OPS

RNG = np.random.default_rng(7)
ROWS = RNG.normal(0, 3, (5, 12)).astype(np.float32)
OTHER = RNG.normal(0, 3, (5, 12)).astype(np.float32)


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


#: Functions of one or two numbers that ops apply to each.
ELEMENTWISE: dict[str, tuple[Callable[..., np.ndarray], Callable[..., float]]] = {
    "gelu": (reference.gelu, gelu),
    "geglu": (reference.geglu, lambda gate, up: gelu(gate) * up),
    "swiglu": (reference.swiglu, lambda gate, up: gate * sigmoid(gate) * up),
    "scale": (lambda x: reference.scale(x, factor=0.3), lambda x: 0.3 * x),
    "softcap": (lambda x: reference.softcap(x, cap=2.5), lambda x: 2.5 * math.tanh(x / 2.5)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(5, 12), (5, 3, 4)])
def test_elementwise(name: str, shape: tuple[int, ...]) -> None:
    function, formula = ELEMENTWISE[name]
    inputs = [ROWS, OTHER][: formula.__code__.co_argcount]
    expected = [formula(*map(float, numbers)) for numbers in zip(*(x.flat for x in inputs), strict=True)]
    found = function(*(x.reshape(shape) for x in inputs))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.reshape(expected, shape), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("heads", [None, 3])
def test_layer_norm(biased: bool, heads: int | None) -> None:
    x = ROWS if heads is None else ROWS.reshape(5, heads, -1)
    weight, bias = RNG.normal(size=(2, x.shape[-1])).astype(np.float32)
    found = reference.layer_norm(x, weight=weight, eps=0.1, bias=bias if biased else None)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.1) * weight
    np.testing.assert_allclose(found, expected + bias * biased, rtol=1e-5, atol=1e-6)


def test_slice() -> None:
    np.testing.assert_array_equal(reference.part(ROWS, start=3, size=4), ROWS[:, 3:7])


def test_position_embed_looks_at_positions_not_at_tokens() -> None:
    batch = Batch(*(np.array(column, np.int32) for column in ([9, 9], [4, 1], [0, 1], [[0], [0]], [0, 1])))
    np.testing.assert_array_equal(reference.position_embed(weight=ROWS, batch=batch), ROWS[[4, 1]])


def test_sigmoid_gate() -> None:
    gate = ROWS[:, :1]
    expected = [[float(x) * sigmoid(float(g)) for x in row] for row, (g,) in zip(OTHER, gate, strict=True)]
    np.testing.assert_allclose(reference.sigmoid_gate(OTHER, gate), expected, rtol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_top_experts(normalize: bool) -> None:
    found = experts.top_experts(ROWS, used=3, normalize=normalize, scale=2.5)
    assert found.shape == (5, 2, 3)
    for row, (numbers, weights) in zip(ROWS.astype(np.float64), found, strict=True):
        order = sorted(range(12), key=lambda number: -row[number])[:3]
        shares = np.exp(row)[order] / (np.exp(row)[order].sum() if normalize else np.exp(row).sum())
        assert numbers.tolist() == order
        np.testing.assert_allclose(weights, 2.5 * shares, rtol=1e-5)


def test_of_experts_with_equal_logits_the_lower_number_is_first() -> None:
    logits = np.array([[1, 5, 2, 5, 5, 2]], np.float32)
    assert experts.top_experts(logits, used=4, normalize=True, scale=1.0)[0, 0].tolist() == [1, 3, 4, 2]


def test_experts() -> None:
    """Up with one input for all chosen experts, down with one for each, and their weighted sum."""
    up, down = RNG.normal(size=(12, 7, 12)), RNG.normal(size=(12, 12, 7))
    chosen = experts.top_experts(ROWS, used=2, normalize=True, scale=1.0)
    middle = experts.expert_linear(OTHER, chosen, weight=up.astype(np.float32))
    assert middle.shape == (5, 2, 7)
    y = experts.expert_linear(middle, chosen, weight=down.astype(np.float32))
    found = experts.expert_sum(y, chosen)
    for row, x, (numbers, weights) in zip(found, OTHER, chosen, strict=True):
        expected = sum(w * (down[int(n)] @ (up[int(n)] @ x)) for n, w in zip(numbers, weights, strict=True))
        np.testing.assert_allclose(row, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", sorted(CORE_OPS))
def test_every_op_is_defined_and_described(name: str) -> None:
    op = CORE_OPS[name]
    module, _, function = op.reference.partition(":")
    assert callable(getattr(import_module(module), function))
    assert op.name == name
    assert op.doc.endswith(".")


class Table:
    """Tensors by their shapes."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.shapes = {f"{name}.weight": shape for name, shape in shapes.items()}

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def names(self) -> list[str]:
        return list(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]


def graph() -> tuple[Graph, Value]:
    """Recording, with a row of 12 numbers."""
    g = Graph(
        Table(token=(100, 12), experts=(8, 6, 12), norm=(11,), flat=(8, 6), router=(8, 12), one=(1, 12))
    )
    return g, g.embed("token")


def chosen(g: Graph, x: Value, used: int = 2, **more: Any) -> Value:
    return g.top_experts(g.linear(x, "router"), used, normalize=True, **more)


WRONG: dict[str, tuple[Callable[[Graph, Value], Value], str]] = {
    "norm": (
        lambda g, x: g.layer_norm(x, "norm", eps=1e-5),
        "norm: the weight has shape (11,), expected (12,) for its input (12,)",
    ),
    "slice": (lambda g, x: g.slice(x, 8, 5), "slice: shape (12,) has no 5 numbers from 8 on"),
    "empty": (lambda g, x: g.slice(x, 8, 0), "slice: shape (12,) has no 0 numbers from 8 on"),
    "heads": (lambda g, x: g.heads(x, 0), "heads: shape (12,) cannot be split into 0 heads"),
    "scale": (lambda g, x: g.scale(x, math.nan), "scale: cannot scale by nan"),
    "scores": (
        lambda g, x: g.attention(*[g.heads(x, 3)] * 3, layer=0, scale=math.inf),
        "attention: scores are scaled by inf",
    ),
    "softcap": (lambda g, x: g.softcap(x, 0.0), "softcap: values are capped at 0.0"),
    "geglu": (lambda g, x: g.geglu(x, g.slice(x, 0, 3)), "geglu: inputs differ in shape: (12,), (3,)"),
    "gate": (lambda g, x: g.sigmoid_gate(x, x), "sigmoid_gate: one gate for a row is needed, found (12,)"),
    "used": (lambda g, x: chosen(g, x, 9), "top_experts: cannot choose 9 experts by logits of shape (8,)"),
    "none": (lambda g, x: chosen(g, x, 0), "top_experts: cannot choose 0 experts"),
    "weights": (lambda g, x: chosen(g, x, scale=0.0), "top_experts: experts are scaled by 0.0"),
    "experts": (
        lambda g, x: g.expert_linear(g.slice(x, 0, 5), "experts", chosen(g, x)),
        "experts: each expert has 12 columns, the input has shape (5,)",
    ),
    "flat": (
        lambda g, x: g.expert_linear(x, "flat", chosen(g, x)),
        "flat: tensors of unexpected shape (flat.weight (8, 6))",
    ),
    "sum": (
        lambda g, x: g.expert_sum(g.expert_linear(x, "experts", chosen(g, x)), chosen(g, x, 3)),
        "expert_sum: results of experts (2, 6) and their weights (2, 3) do not fit together",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_by_name(case: str) -> None:
    build, message = WRONG[case]
    with pytest.raises(GraphError) as caught:
        build(*graph())
    assert caught.value.message.startswith(message)


def test_shapes_of_experts() -> None:
    g, x = graph()
    picked = chosen(g, x)
    y = g.expert_linear(x, "experts", picked)
    assert (picked.shape, y.shape) == ((2, 2), (2, 6))
    assert g.expert_sum(g.swiglu(y, y), picked).shape == (6,)
    assert g.sigmoid_gate(x, g.linear(x, "one")).shape == (12,)
