"""A graph and the segments that leave it compute together what the graph did, whatever leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.errors import GraphError
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Node
from shimmy.graph.evaluate import evaluator
from shimmy.graph.lora import Term, with_lora
from shimmy.graph.offload import Split, expert_layers, layer_count, split
from shimmy.graph.reference import ReferenceCache
from tests import mixture
from tests.backend.harness import Part, batch_of, graph_of
from tests.lora import with_adapters

F32 = NDArray[np.float32]
WEIGHTS = mixture.weights()
GRAPH = mixture.graph(WEIGHTS)
BATCH = batch_of([Part([5], 3, [0]), Part([7, 8, 9], 0, [1])])


def evaluate(graph: Graph, nodes: Sequence[Node], context: dict[str, Any]) -> dict[int, F32]:
    """The values of nodes by the definitions of their ops."""
    values: dict[int, F32] = {}
    for node in nodes:
        tensors = {
            role: WEIGHTS.dequantize(name).reshape(WEIGHTS.shape(name)) for role, name in node.weights.items()
        }
        inputs = [values[i] for i in node.inputs]
        values[node.index] = evaluator(graph.ops[node.op], node)(inputs, tensors, context)
    return values


def logits(parts: Split | Graph, terms: dict[str, Term] | None = None) -> F32:
    """The outputs of two steps, the first of which fills the cache; some rows of both have an adapter."""
    cache = ReferenceCache(32)
    whole = parts if isinstance(parts, Graph) else parts.graph
    for step in (batch_of([Part([1, 2, 3], 0, [0])]), BATCH):
        batch = with_adapters(step, [(0, 0, 1.0), (2, 0, 0.5)]) if terms else step
        context: dict[str, Any] = {"batch": batch, "cache": cache, "adapters": {0: terms}}
        if isinstance(parts, Split):
            context["segments"] = segments(parts.host, context)
        last = evaluate(whole, whole.nodes, context)[whole.output]
    return last


def segments(host: Graph, context: dict[str, Any]) -> Callable[[int, Batch, Sequence[F32]], F32]:
    def run(number: int, batch: Batch, given: Sequence[F32]) -> F32:
        own = {**context, "batch": batch, "given": given}
        ends = [node for node in host.nodes if node.op == "leave"]
        first = ends[number - 1].index + 1 if number else 0
        return evaluate(host, host.nodes[first : ends[number].index + 1], own)[ends[number].index]

    return run


WISHES = [
    ({"keep_layers": 2}, "layer 0"),
    ({"keep_layers": 1}, "layers 0 to 1"),
    ({"keep_layers": 0}, "layers 0 to 2"),
    ({"experts_of": 2}, "experts of 1 layer"),
    ({"experts_of": 9}, "experts of 2 layers"),
    ({"keep_layers": 1, "experts_of": 9}, "layers 0 to 1, experts of 1 layer"),
    ({"keep_layers": 0, "experts_of": 9}, "layers 0 to 2"),
]


def test_nothing_is_left_to_leave() -> None:
    parts = split(GRAPH, keep_layers=2, experts_of=9)
    assert parts is not None
    assert split(parts.graph, keep_layers=2, experts_of=9) is None


@pytest.mark.parametrize(("wishes", "what"), WISHES)
def test_both_parts_compute_what_the_whole_did(wishes: dict[str, int], what: str) -> None:
    parts = split(GRAPH, **wishes)
    assert parts is not None
    assert parts.what == what
    np.testing.assert_array_equal(logits(parts), logits(GRAPH))


def test_rows_whose_logits_are_not_wanted_may_have_ended_before() -> None:
    early = mixture.graph(WEIGHTS, early=True)
    parts = split(early, experts_of=9)
    assert parts is not None
    assert [node.attrs["late"] for node in parts.host.nodes if node.op == "enter"] == [
        False,
        False,
        True,
        True,
    ]
    np.testing.assert_array_equal(logits(parts), logits(early))


def test_experts_that_have_nothing_to_do_with_each_other_leave_apart() -> None:
    def two_mixtures(g: Graph) -> Any:
        x = g.embed("token_embd")
        with g.block(1):
            chosen = g.top_experts(g.linear(x, "ffn_gate_inp"), mixture.USED, normalize=True)
            y = g.expert_sum(g.expert_linear(x, "ffn_gate_exps", chosen), chosen)
            z = g.expert_sum(g.expert_linear(x, "ffn_up_exps", chosen), chosen)
            x = g.swiglu(g.slice(y, 0, mixture.WIDTH), g.slice(z, mixture.WIDTH, mixture.WIDTH))
        return g.last(x)

    graph = graph_of(WEIGHTS, two_mixtures)
    parts = split(graph, experts_of=2)
    assert parts is not None
    assert [node.op for node in parts.graph.nodes].count("segment") == 2
    np.testing.assert_array_equal(logits(parts), logits(graph))


@pytest.mark.parametrize("wishes", [{}, {"keep_layers": 3}, {"keep_layers": 99}, {"experts_of": 1}])
def test_nothing_leaves(wishes: dict[str, int]) -> None:
    assert split(GRAPH, **wishes) is None


@pytest.mark.parametrize(("wishes", "what"), WISHES)
def test_each_tensor_is_on_one_side(wishes: dict[str, int], what: str) -> None:
    parts = split(GRAPH, **wishes)
    assert parts is not None
    stays, leaves = (
        {name for node in graph.nodes for name in node.weights.values()}
        for graph in (parts.graph, parts.host)
    )
    assert not stays & leaves
    assert stays | leaves == set(WEIGHTS.names())
    if "keep_layers" not in wishes:
        assert all(name.endswith("_exps.weight") for name in leaves), "routers and dense networks stay"


def test_layers_and_experts_are_told_by_labels_and_ops() -> None:
    assert layer_count(GRAPH) == mixture.LAYERS
    assert expert_layers(GRAPH) == [1, 2]


def test_adapters_of_both_parts() -> None:
    rng = np.random.default_rng(0)

    def term(rows: int, columns: int) -> Term:
        return Term(rng.normal(size=(4, columns)).astype(np.float32), rng.normal(size=(rows, 4)))

    terms = {"blk.0.attn_q": term(32, 32), "blk.2.attn_v": term(32, 32), "output": term(64, 32)}
    parts = split(GRAPH, keep_layers=1, experts_of=9)
    assert parts is not None
    adapted = Split(with_lora(parts.graph), with_lora(parts.host), parts.what)
    expected = logits(with_lora(GRAPH), terms)
    assert (expected != logits(GRAPH)).any()
    np.testing.assert_array_equal(logits(adapted, terms), expected)


def test_what_cannot_be_computed_apart_is_refused() -> None:
    with pytest.raises(GraphError, match=r"others read token_embd, blk\.0\.attn_q of it"):
        split(graph_of(WEIGHTS, mixture.two_values), keep_layers=1)

    def picks(g: Graph) -> Any:
        x = g.last(g.embed("token_embd"))
        with g.block(0):
            return g.linear(x, "attn_q")

    with pytest.raises(GraphError, match="picks the rows"):
        split(graph_of(WEIGHTS, picks), keep_layers=0)
