"""Products of generated rows that compute what they multiply: a sum with a normed value, normed again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shimmy.graph.builder import Graph, Value
from shimmy.graph.lora import Term
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
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
from tests.lora import with_adapters

VOCABULARY, WIDTH = 30, 96
GENERATED = [Part([token], 1, [token]) for token in range(7)]


def made_up() -> MadeUpWeights:
    rng = np.random.default_rng(1)
    form = Affine(4, 32, centred=True)
    matrices = {name: affine(rng, WIDTH, WIDTH, form) for name in ("first", "second", "third")}
    norms = {f"n{i}__weight": rng.normal(1, 0.3, WIDTH).astype(np.float32) for i in range(4)}
    weights = MadeUpWeights(a=floats(rng, VOCABULARY, WIDTH), head=floats(rng, 20, WIDTH, "f16"), **matrices)
    return weights.with_vectors(**norms)


def build(g: Graph) -> Value:
    x = g.embed("a")
    x = x + g.rms_norm(g.linear(x, "first"), "n0", eps=1e-5)
    y = g.rms_norm(x, "n1", eps=1e-2)
    x = x + g.rms_norm(
        g.linear(g.swiglu(g.linear(y, "second"), g.linear(y, "third")), "first"), "n2", eps=0.1
    )
    return g.linear(g.rms_norm(x, "n3", eps=1e-5), "head")


def test_near_the_definition(gpu: Gpu) -> None:
    weights = made_up()
    graph = graph_of(weights, build)
    steps = [batch_of(GENERATED), batch_of(GENERATED[2:3]), batch_of([Part(range(20))], every_row=True)]
    assert_agree(
        graph, weights, [replace(step, outputs=np.arange(len(step.tokens))) for step in steps], "wgpu"
    )
    plan = compile_graph("wgpu", graph, weights)
    nodes = {item.node for item in plan.lowered["generated"]}
    assert nodes.isdisjoint({"n0", "n2"})
    plan.close()


@pytest.mark.parametrize("precision", [pytest.param("f32", marks=pytest.mark.full), "int8"])
def test_a_row_alone_or_with_others(precision: str) -> None:
    weights = made_up()
    plan = compile_graph("wgpu", graph_of(weights, build), weights, replace(LIMITS, precision=precision))
    plan.reserve(8)
    together = rows_of(plan, batch_of(GENERATED))
    for row, part in enumerate(GENERATED):
        np.testing.assert_array_equal(rows_of(plan, batch_of([part]))[0], together[row])
    plan.close()


@pytest.mark.parametrize("count", [1, 7])
def test_with_adapters(gpu: Gpu, count: int) -> None:
    rng = np.random.default_rng(3)
    weights = made_up()
    graph = graph_of(weights, build)
    a, b = (rng.normal(0, 0.1, shape).astype(np.float32) for shape in ((5, WIDTH), (WIDTH, 5)))
    terms = {name: Term(a, b, 0.5) for name in ("second", "third")} | {"head": Term(a, b[:20], 1.5)}
    step = with_adapters(batch_of(GENERATED[:count]), [(row, 0, 1.0) for row in range(0, count, 2)])
    found = []
    for plan in (
        WgpuBackend(PLUGINS, gpu).compile(graph, weights, LIMITS, no_progress),
        compile_graph("reference", graph, weights),
    ):
        plan.reserve(8)
        plan.put_adapter(0, terms)
        found.append(rows_of(plan, step))
        plan.close()
    assert_close(*found)
