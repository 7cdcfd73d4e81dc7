"""Values behind ``last`` have rows for the outputs alone, of both phases; whatever is computed of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shimmy.graph.builder import Graph, Value
from tests.backend.harness import (
    LIMITS,
    Affine,
    MadeUpWeights,
    Part,
    affine,
    assert_agree,
    batch_of,
    compile_graph,
    floats,
    graph_of,
    rows_of,
)

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


@pytest.mark.parametrize("build", GRAPHS)
def test_near_the_definition(build: Callable[[Graph, Value], Value]) -> None:
    weights = made_up()
    graph = graph_of(weights, lambda g: build(g, g.last(g.embed("a"))))
    # Generated rows, rows of prompts, and both; some rows are no outputs.
    parts = [Part([3], 1), Part([5], 1, [1])], [Part([1, 2, 3]), Part([4, 5], 0, [1])]
    batches = [batch_of(some) for some in (*parts, parts[0] + parts[1])]
    assert_agree(graph, weights, [*batches, batch_of([Part([7])])], "wgpu")


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
