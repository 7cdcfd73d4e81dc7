"""Tensors that are larger than what a shader can bind are multiplied piece by piece, to the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy.graph.builder import Graph, Value
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from tests.backend.harness import (
    F32,
    LIMITS,
    PLUGINS,
    Affine,
    MadeUpWeights,
    Part,
    affine,
    batch_of,
    floats,
    graph_of,
    no_progress,
    rows_of,
)

WIDTH, EXPERTS, USED, INNER, VOCABULARY = 64, 7, 3, 32, 150
Q4 = Affine(4, 32, centred=True)


def matrix(rows: int, columns: int = WIDTH, seed: int = 2) -> AffineRun:
    return affine(np.random.default_rng(seed), rows, columns, Q4)


def made_up() -> MadeUpWeights:
    rng = np.random.default_rng(1)
    weights = MadeUpWeights(
        a=floats(rng, VOCABULARY, WIDTH, "f16"),
        router=FloatRun(rng.normal(size=(EXPERTS, WIDTH)).astype(np.float32)),
        gate=matrix(EXPERTS * INNER),
        up=matrix(EXPERTS * INNER, seed=3),
        down=matrix(EXPERTS * WIDTH, INNER),
        both=matrix(2 * INNER),
        out=matrix(WIDTH, INNER),
        head=matrix(VOCABULARY),
    )
    bias = rng.normal(size=2 * INNER).astype(np.float32)
    return weights.stacked(gate=EXPERTS, up=EXPERTS, down=EXPERTS).with_vectors(both__bias=bias)


def build(g: Graph) -> Value:
    x = g.embed("a")
    chosen = g.top_experts(g.linear(x, "router"), USED, normalize=True)
    gate, up = (g.expert_linear(x, name, chosen) for name in ("gate", "up"))
    x = x + g.expert_sum(g.expert_linear(g.swiglu(gate, up), "down", chosen), chosen)
    both = g.linear(x, "both")
    x = x + g.linear(g.geglu(g.slice(both, 0, INNER), g.slice(both, INNER, INNER)), "out")
    return g.linear(g.last(x), "head")


def computed(gpu: Gpu, precision: str) -> tuple[F32, int]:
    """Logits of rows of both phases, and how many dispatches generated rows have."""
    weights = made_up()
    limits = replace(LIMITS, precision=precision)
    plan = WgpuBackend(PLUGINS, gpu).compile(graph_of(weights, build), weights, limits, no_progress)
    plan.reserve(8)
    tokens = [*range(5), VOCABULARY - 1, 70, 71]
    generated = [Part([token], 1, [i]) for i, token in enumerate(tokens)]
    steps = (batch_of([Part(tokens)], every_row=True), batch_of(generated), batch_of(generated[:1]))
    rows = np.concatenate([rows_of(plan, step) for step in steps])
    dispatches = len(plan.lowered["generated"])
    plan.close()
    return rows, dispatches


@pytest.mark.parametrize("precision", [pytest.param("f32", marks=pytest.mark.full), "int8"])
def test_pieces_give_the_same_bits(gpu: Gpu, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, few = computed(gpu, precision)
    # Room for 64 rows of 64 columns in 4 bits; 16 in half floats; two experts.
    monkeypatch.setattr(gpu, "limits", replace(gpu.limits, storage_binding=2048))
    pieces, many = computed(gpu, precision)
    np.testing.assert_array_equal(pieces, whole)
    assert many > few + 10
