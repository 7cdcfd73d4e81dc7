"""Mixtures of experts on the GPU against their NumPy definitions, and a row alone or with others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy.graph import experts
from shimmy.graph.builder import Graph, Value
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.ops.experts import (
    Choice,
    Slots,
    expert_groups,
    group_bytes,
    most_tiles,
    top_experts,
)
from shimmy_plugins.backends.wgpu.ops.row import columns
from tests.backend.harness import (
    LIMITS,
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
    rows_of,
)
from tests.backend.wgpu.kernels import COMPOSER, run_kernel, step_of

VOCABULARY = 40
Q4_K = Affine(4, 32, factor=np.uint8)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("count", "used"), [(1, 1), (4, 2), (60, 4), (300, 8)])
def test_top_experts(gpu: Gpu, count: int, used: int, normalize: bool) -> None:
    logits = np.random.default_rng(count).normal(size=(9, count)).astype(np.float32)
    logits[1] = logits[1, 0]
    logits[2, count // 2 :] = logits[2].max()
    logits[3] *= 100
    attrs = {"used": used, "normalize": normalize, "scale": 2.5}
    size, step = step_of(9)
    y = gpu.buffer(9 * 2 * used * 4, "y")
    choice = Choice(count, used, normalize, 2.5, columns(count))
    run_kernel(gpu, top_experts(COMPOSER, gpu, choice), size, [logits, y, step])
    found = gpu.read(y, np.float32).reshape(9, 2, used)
    expected = experts.top_experts(logits, **attrs)
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(("count", "used", "rows"), [(4, 2, 1), (4, 2, 50), (300, 8, 70), (1, 1, 33)])
def test_groups_have_each_slot_once(gpu: Gpu, count: int, used: int, rows: int) -> None:
    rng, tile, slots = np.random.default_rng(3), 16, Slots(count, used, False, range(count))
    # Some experts have many rows, some none.
    logits = rng.normal(size=(rows, count)) + np.where(np.arange(count) < 2, 2, 0)
    chosen = experts.top_experts(logits.astype(np.float32), used=used, normalize=True, scale=1.0)
    size, step = step_of(rows)
    order, tiles = (gpu.buffer(n, "groups") for n in group_bytes(slots, rows, tile))
    gpu.upload(tiles, np.full(most_tiles(slots, rows, tile) * 4, 7, np.uint32))
    run_kernel(gpu, expert_groups(COMPOSER, gpu, slots, tile), size, [chosen, order, tiles, step])
    of_slot = chosen[:, 0].ravel().astype(int)
    places = gpu.read(order, np.uint32)
    assert sorted(places) == list(range(rows * used))
    seen: list[int] = []
    for expert, first, end, _ in gpu.read(tiles, np.uint32).reshape(-1, 4).astype(int):
        assert end - first <= tile
        assert (of_slot[places[first:end]] == expert).all()
        seen += range(first, end)
    assert sorted(seen) == list(range(rows * used))


def mixture(gate: AffineRun | FloatRun, down: AffineRun | FloatRun, count: int, hidden: int) -> MadeUpWeights:
    rng = np.random.default_rng(4)
    weights = MadeUpWeights(
        a=floats(rng, VOCABULARY, hidden),
        router=floats(rng, count, hidden),
        gate=gate,
        up=gate,
        down=down,
    )
    weights.with_vectors(norm__weight=rng.normal(1, 0.2, hidden).astype(np.float32))
    return weights.stacked(gate=count, up=count, down=count)


def feed_forward(g: Graph, used: int, end: str) -> Value:
    x = g.embed("a")
    y = g.rms_norm(x, "norm", eps=1e-5)
    chosen = g.top_experts(g.linear(y, "router"), used, normalize=True, scale=1.0)
    gate, up = (g.expert_linear(y, name, chosen) for name in ("gate", "up"))
    return x + g.expert_sum(g.expert_linear(g.op(end, gate, up), "down", chosen), chosen)


def steps(*counts: int) -> list:
    rng = np.random.default_rng(5)
    return [batch_of([Part(rng.integers(0, VOCABULARY, n))], every_row=True) for n in counts]


#: Experts, those used, hidden and inner columns.
SIZES = [(4, 2, 256, 256), (5, 3, 32, 96), (64, 8, 64, 32)]


@pytest.mark.parametrize(("count", "used", "hidden", "inner"), SIZES)
@pytest.mark.parametrize("kind", ["quantised", "f16"])
def test_a_feed_forward_of_experts(count: int, used: int, hidden: int, inner: int, kind: str) -> None:
    """Prompts of one row and of many, then generated rows."""
    rng = np.random.default_rng(6)
    form = Q4_K if hidden == 256 else Affine(5, 32, centred=True)
    matrices = (
        [affine(rng, count * inner, hidden, form), affine(rng, count * hidden, inner, form)]
        if kind == "quantised"
        else [floats(rng, count * inner, hidden, "f16"), floats(rng, count * hidden, inner, "f16")]
    )
    weights = mixture(*matrices, count, hidden)
    graph = graph_of(weights, lambda g: feed_forward(g, used, "swiglu" if count > 4 else "geglu"))
    generated = batch_of([Part([i], 1, [i]) for i in range(8)], every_row=True)
    assert_agree(graph, weights, [*steps(1, 2, 70), generated], "wgpu")


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_a_row_alone_or_with_others(precision: str) -> None:
    """Of each phase the same bits, whichever rows share an expert, and however many there are."""
    rng = np.random.default_rng(6)
    weights = mixture(affine(rng, 5 * 64, 256, Q4_K), affine(rng, 5 * 256, 64, Affine(4, 32)), 5, 256)
    graph = graph_of(weights, lambda g: feed_forward(g, 2, "swiglu"))
    plan = compile_graph("wgpu", graph, weights, replace(LIMITS, precision=precision))
    plan.reserve(8)
    tokens = rng.integers(0, VOCABULARY, 90)
    together = rows_of(plan, batch_of([Part(tokens)], every_row=True))
    for rows in (slice(0, 1), slice(40, 90)):
        found = rows_of(plan, batch_of([Part(tokens[rows])], every_row=True))
        np.testing.assert_array_equal(found, together[rows])
    generated = [Part([token], 1, [i]) for i, token in enumerate(tokens[:8])]
    found = rows_of(plan, batch_of(generated))
    np.testing.assert_array_equal(rows_of(plan, batch_of(generated[5:6]))[0], found[5])
    assert_close(found, together[:8], 1e-5 if precision == "f32" else 1e-4)
    plan.close()


def test_a_logit_that_is_no_number_shows_in_its_row(gpu: Gpu) -> None:
    logits = np.random.default_rng(1).normal(size=(3, 60)).astype(np.float32)
    logits[1, 7] = np.nan
    size, step = step_of(3)
    y = gpu.buffer(3 * 2 * 4 * 4, "y")
    choice = Choice(60, 4, normalize=True, scale=1.0, logits=columns(60))
    run_kernel(gpu, top_experts(COMPOSER, gpu, choice), size, [logits, y, step])
    found = gpu.read(y, np.float32).reshape(3, 2, 4)
    assert np.isnan(found[1, 1]).all()
    assert np.isfinite(found[[0, 2]]).all()
    assert (found[:, 0] < 60).all()
