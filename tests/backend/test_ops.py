"""Each op, layout and odd shape on each engine, against the NumPy definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy.graph.builder import Graph, Value
from shimmy.graph.scaling import RopeScaling, Yarn
from tests.backend.harness import (
    AFFINE,
    JUDGED,
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

TOKENS = [1, 2, 3, 8, 9]
VOCABULARY = 19
FLOATS = ["f32", "f16", "bf16"]
LAYOUTS = [*AFFINE, *FLOATS]
SHAPES = [(1, 32), (15, 96), (16, 256), (17, 32), (48, 96), (17, 512)]
ODD_SHAPES = [(16, 7), (17, 33)]

pytestmark = pytest.mark.parametrize("backend", JUDGED)


def made_up(rng: np.random.Generator, rows: int, columns: int, layout: object) -> AffineRun | FloatRun:
    if isinstance(layout, Affine):
        return affine(rng, rows, columns, layout)
    return floats(rng, rows, columns, str(layout))


def steps(rng: np.random.Generator) -> list:
    """A batch of each number of tokens."""
    return [batch_of([Part(rng.integers(0, VOCABULARY, n))], every_row=True) for n in TOKENS]


def inputs(rng: np.random.Generator, *widths: int) -> dict[str, FloatRun]:
    """Embeddings a, b, c … that serve as the inputs of an op."""
    return {"abc"[i]: floats(rng, VOCABULARY, width) for i, width in enumerate(widths)}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_linear(backend: str, layout: object) -> None:
    rng = np.random.default_rng(1)
    multiple = layout.columns if isinstance(layout, Affine) else 1
    for rows, columns in SHAPES + ODD_SHAPES * isinstance(layout, str):
        columns = -(-columns // multiple) * multiple
        weights = MadeUpWeights(**inputs(rng, columns), w=made_up(rng, rows, columns, layout))
        graph = graph_of(weights, lambda g: g.linear(g.embed("a"), "w"))
        assert_agree(graph, weights, steps(rng), backend)


@pytest.mark.parametrize("layout", [Affine(4, 32), "f32"], ids=str)
def test_linear_with_bias(backend: str, layout: object) -> None:
    rng = np.random.default_rng(2)
    weights = MadeUpWeights(**inputs(rng, 64), w=made_up(rng, 17, 64, layout))
    weights.with_vectors(w__bias=rng.normal(size=17).astype(np.float32))
    graph = graph_of(weights, lambda g: g.linear(g.embed("a"), "w"))
    assert_agree(graph, weights, steps(rng), backend)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_embed_is_exact(backend: str, layout: object) -> None:
    rng = np.random.default_rng(3)
    weights = MadeUpWeights(a=made_up(rng, 37, 512, layout))
    plan = compile_graph(backend, graph_of(weights, lambda g: g.embed("a")), weights)
    plan.reserve(2)
    found = rows_of(plan, batch_of([Part(np.arange(37), blocks=[0, 1])], every_row=True))
    plan.close()
    np.testing.assert_array_equal(found, weights.dequantize("a.weight"))


@pytest.mark.parametrize("width", [1, 7, 16, 33, 96, 576])
def test_rms_norm(backend: str, width: int) -> None:
    rng = np.random.default_rng(5)
    weights = MadeUpWeights(**inputs(rng, width), n=floats(rng, 1, width))
    weights.with_vectors(norm__weight=rng.normal(size=width).astype(np.float32))
    graph = graph_of(weights, lambda g: g.rms_norm(g.embed("a"), "norm", eps=1e-5))
    assert_agree(graph, weights, steps(rng), backend)


@pytest.mark.parametrize("head_dim", [6, 16, 20])
def test_rms_norm_of_heads(backend: str, head_dim: int) -> None:
    rng = np.random.default_rng(6)
    weights = MadeUpWeights(**inputs(rng, 3 * head_dim))
    weights.with_vectors(norm__weight=rng.normal(size=head_dim).astype(np.float32))

    def norm(g: Graph) -> Value:
        return g.rms_norm(g.heads(g.embed("a"), 3), "norm", eps=1e-6)

    graph = graph_of(weights, lambda g: g.op("flat", norm(g)))
    assert_agree(graph, weights, steps(rng), backend)


@pytest.mark.parametrize("width", [1, 15, 33, 96])
@pytest.mark.parametrize("op", ["add", "swiglu"])
def test_elementwise(backend: str, op: str, width: int) -> None:
    rng = np.random.default_rng(7)
    weights = MadeUpWeights(**inputs(rng, width, width))
    graph = graph_of(weights, lambda g: g.op(op, g.embed("a"), g.embed("b")))
    assert_agree(graph, weights, steps(rng), backend)


def test_swiglu_of_extreme_gates(backend: str) -> None:
    """Neither overflow nor NaN where e^x leaves the range of F32."""
    gates = np.array([[-1e30, -200, -104, -88, -30, -1e-8, 0, 1e-8, 30, 88, 104, 200, 1e30]], np.float32)
    weights = MadeUpWeights(a=FloatRun(gates), b=FloatRun(np.ones_like(gates)))
    graph = graph_of(weights, lambda g: g.swiglu(g.embed("a"), g.embed("b")))
    plan = compile_graph(backend, graph, weights)
    plan.reserve(1)
    found = rows_of(plan, batch_of([Part([0])]))
    plan.close()
    expected = gates.astype(np.float64) / (1 + np.exp(-gates.astype(np.float64).clip(-700)))
    # A GPU's exp may be off by some ulp, and ends where F32 does.
    exact = {"rtol": 1e-5, "atol": 1e-8} if backend == "wgpu" else {"rtol": 1e-6, "atol": 1e-30}
    np.testing.assert_allclose(found, expected, **exact)


SCALINGS = {
    "factors": RopeScaling(factors="rope_freqs.weight"),
    "yarn": RopeScaling(linear=2.0, yarn=Yarn(4.0, 64.0), magnitude=1.1),
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("style", ["interleaved", "half"])
@pytest.mark.parametrize(("head_dim", "dims"), [(8, 8), (64, 64), (20, 12), (2, 2)])
def test_rope(backend: str, style: str, head_dim: int, dims: int, scaling: str) -> None:
    """Two kinds of rotation in one graph: one with the model's scaling, one without."""
    rng = np.random.default_rng(8)
    weights = MadeUpWeights(**inputs(rng, 3 * head_dim))
    weights.with_vectors(rope_freqs__weight=rng.uniform(1, 4, dims // 2).astype(np.float32))

    def build(g: Graph) -> Value:
        heads = g.heads(g.embed("a"), 3)
        plain = g.rope(heads, base=10000.0, dims=dims, style=style, scaled=False)
        return g.op("flat", plain + g.rope(heads, base=10000.0, dims=dims, style=style))

    parts = [Part([1, 2, 3], 0, [0]), Part([4], 200, [0] * 7), Part([5, 6], 31, [0, 1])]
    graph = graph_of(weights, build, SCALINGS[scaling])
    assert_agree(graph, weights, [batch_of(parts, every_row=True)], backend)


def test_last_keeps_the_wanted_rows(backend: str) -> None:
    rng = np.random.default_rng(9)
    weights = MadeUpWeights(**inputs(rng, 33))
    weights.with_vectors(norm__weight=np.ones(33, np.float32))
    graph = graph_of(weights, lambda g: g.rms_norm(g.last(g.embed("a")), "norm", eps=1e-5))
    batch = batch_of([Part([1, 2, 3]), Part([4]), Part([5, 6])])
    assert list(batch.outputs) == [2, 3, 5]
    assert_agree(graph, weights, [batch], backend)


def test_a_step_without_outputs(backend: str) -> None:
    rng = np.random.default_rng(10)
    weights = MadeUpWeights(**inputs(rng, 32), w=floats(rng, 20, 32))
    graph = graph_of(weights, lambda g: g.linear(g.last(g.embed("a")), "w"))
    plan = compile_graph(backend, graph, weights)
    plan.reserve(1)
    batch = replace(batch_of([Part([1, 2])]), outputs=np.empty(0, np.int32))
    step = plan.submit(batch, [])
    assert step.chosen() == []
    assert step.logits().shape == (0, 20)
    plan.close()


def test_a_matrix_used_twice(backend: str) -> None:
    """Tied embeddings: one tensor serves embed and linear."""
    rng = np.random.default_rng(11)
    weights = MadeUpWeights(a=affine(rng, VOCABULARY, 64, Affine(8, 32)))
    graph = graph_of(weights, lambda g: g.linear(g.embed("a"), "missing", tied="a"))
    assert_agree(graph, weights, steps(rng), backend)
    once = compile_graph(backend, graph_of(weights, lambda g: g.embed("a")), weights)
    twice = compile_graph(backend, graph, weights)
    assert once.weight_bytes == twice.weight_bytes
    for plan in (once, twice):
        plan.close()
