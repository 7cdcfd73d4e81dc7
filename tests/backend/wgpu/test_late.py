"""Values behind ``last`` have rows for the outputs alone, of both phases; whatever is computed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.plan import StepLostError
from shimmy.graph.builder import Graph, Node, Value
from shimmy.graph.lora import Term
from shimmy.testing import plans
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.ops import linear_vec
from tests import mixture
from tests.backend.harness import (
    LIMITS,
    PLUGINS,
    Affine,
    MadeUpWeights,
    Part,
    affine,
    assert_agree,
    assert_close,
    batch_of,
    compile_graph,
    floats,
    graph_of,
    no_progress,
    rows_of,
)
from tests.backend.wgpu.test_lora import meeting
from tests.lora import with_adapters

WIDTH = 64


def made_up() -> MadeUpWeights:
    rng = np.random.default_rng(1)
    weights = MadeUpWeights(
        a=floats(rng, 30, WIDTH),
        w=affine(rng, WIDTH, WIDTH, Affine(4, 32, centred=True)),
        head=floats(rng, 20, WIDTH, "f16"),
        small=floats(rng, 20, WIDTH // 4, "f16"),
    )
    vectors = {name: rng.normal(1, 0.3, WIDTH).astype(np.float32) for name in ("norm__weight", "norm__bias")}
    return weights.with_vectors(**vectors)


def added_in_place(g: Graph, x: Value) -> Value:
    return x + g.linear(g.layer_norm(x, "norm", eps=1e-5), "w")


def added_and_multiplied(g: Graph, x: Value) -> Value:
    return g.linear(added_in_place(g, x), "head")


def read_twice(g: Graph, x: Value) -> Value:
    return g.linear(g.gelu(g.linear(x, "w")) + x, "head")


def normed_and_added(g: Graph, x: Value) -> Value:
    return g.linear(x + g.rms_norm(g.linear(x, "w"), "norm", eps=1e-5), "head")


def of_a_part(g: Graph, x: Value) -> Value:
    return g.softcap(g.linear(g.slice(x, 8, WIDTH // 4), "small"), 2.0)


GRAPHS = [added_in_place, added_and_multiplied, read_twice, normed_and_added, of_a_part]


#: Generated rows, rows of prompts, and both; some rows are no outputs.
PARTS = [Part([3], 1), Part([5], 1, [1])], [Part([1, 2, 3], 0, [2]), Part([4, 5], 0, [3])]
BATCHES = [batch_of(some) for some in (*PARTS, [Part([7])], [Part([7], 1)], PARTS[0] + PARTS[1])]


@pytest.mark.parametrize("build", GRAPHS)
def test_near_the_definition(build: Callable[[Graph, Value], Value]) -> None:
    weights = made_up()
    graph = graph_of(weights, lambda g: build(g, g.last(g.embed("a"))))
    assert_agree(graph, weights, BATCHES, "wgpu")


@pytest.mark.parametrize("build", GRAPHS)
def test_adapters(build: Callable[[Graph, Value], Value]) -> None:
    weights = made_up()
    graph = graph_of(weights, lambda g: build(g, g.last(g.embed("a"))))
    assert_adapted_alike(graph, weights, graph.nodes)


def terms_for(weights: MadeUpWeights, targets: Iterable[Node]) -> dict[str, Term]:
    rng = np.random.default_rng(2)
    terms = {}
    for node in (node for node in targets if node.op == "linear"):
        rows, columns = weights.shape(node.weights["weight"])
        a, b = (rng.normal(0, 0.1, shape).astype(np.float32) for shape in ((5, columns), (rows, 5)))
        terms[node.label] = Term(a, b, 1.5)
    return terms


def assert_adapted_alike(graph: Graph, weights: MadeUpWeights, targets: Iterable[Node]) -> None:
    """All products have an adapter, on some rows of each phase."""
    terms = terms_for(weights, targets)
    assert terms
    both = [compile_graph(backend, graph, weights) for backend in ("reference", "wgpu")]
    for plan in both:
        plan.reserve(8)
        plan.put_adapter(1, terms)
    for batch in BATCHES:
        # The last row of a part is an output.
        entries = [(int(row), 1, 0.5 + number) for number, row in enumerate(batch.outputs) if number != 1]
        expected, found = (rows_of(plan, with_adapters(batch, entries)) for plan in both)
        assert_close(found, expected)
        assert (np.abs(found - rows_of(both[0], batch)).max(axis=1) > 0.01).sum() == len(entries)
    for plan in both:
        plan.close()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_single_output_that_waits_for_its_adapter(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(linear_vec, "PATIENCE", 1 << 15)
    weights = made_up()
    graph = graph_of(weights, lambda g: added_and_multiplied(g, g.last(g.embed("a"))))
    plan = WgpuBackend(PLUGINS, gpu).compile(graph, weights, LIMITS, no_progress)
    plan.reserve(2)
    plan.put_adapter(1, terms_for(weights, graph.nodes))
    batch = batch_of([Part([3], 1), Part([5], 1, [1])][-rows:])
    batch = with_adapters(replace(batch, outputs=np.array([rows - 1], np.int32)), [(rows - 1, 1, 0.5)])
    expected = rows_of(plan, batch)
    meeting(plan)
    in_time = 0
    for _ in range(20):
        # Whether A x comes in time is a matter of how workgroups are scheduled.
        with suppress(StepLostError):
            np.testing.assert_array_equal(rows_of(plan, batch), expected)
            in_time += 1
        gpu.upload(meeting(plan)._adapted._state.in_vain, np.zeros(4, np.uint32))
    assert in_time


def test_experts_and_adapters_beside_them() -> None:
    weights = mixture.weights()
    graph = mixture.graph(weights, early=True)
    assert_agree(graph, weights, BATCHES, "wgpu")
    assert_adapted_alike(graph, weights, graph.nodes[-12:])


def test_experts_in_pieces(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices larger than a binding are bound in pieces, with some of the experts each."""
    weights = mixture.weights()
    experts = mixture.EXPERTS * mixture.WIDE * mixture.WIDTH * 4
    monkeypatch.setattr(gpu, "limits", replace(gpu.limits, storage_binding=experts // 2))
    graph = mixture.graph(weights, early=True)
    plans.assert_agree(WgpuBackend(PLUGINS, gpu), graph, weights, BATCHES, blocks=4)


def test_rows_rounded_to_8_bits() -> None:
    weights = made_up()
    graph = graph_of(weights, lambda g: added_and_multiplied(g, g.last(g.embed("a"))))
    parts = [Part([3], 1), Part([1, 2, 3], 0, [1]), Part([4, 5], 0, [2])]
    found = []
    for precision in ("f32", "int8"):
        plan = compile_graph("wgpu", graph, weights, replace(LIMITS, precision=precision))
        plan.reserve(3)
        found.append(rows_of(plan, batch_of(parts)))
        plan.close()
    error = np.linalg.norm(found[1] - found[0], axis=1) / np.linalg.norm(found[0], axis=1)
    assert (error < 0.02).all()
    assert (error > 0).all()
