"""The engines of this machine by the conformance kit: each op, layout, odd shape; attention; invariance."""

from __future__ import annotations

import numpy as np
import pytest

from shimmy.engine.plan import Backend
from shimmy.gguf.quant import FloatRun
from shimmy.graph.ops import CORE_OPS
from shimmy.testing.backends import BackendConformance
from shimmy.testing.cases import CASES, VOCABULARY
from shimmy.testing.sequences import small_layer
from shimmy.testing.weights import MadeUpWeights
from tests.backend.harness import (
    JUDGED,
    Affine,
    Part,
    affine,
    backend_named,
    batch_of,
    compile_graph,
    graph_of,
    rows_of,
)


class Here(BackendConformance):
    """An engine on this machine; that for GPUs may compute on a software one."""

    def backend(self) -> Backend:
        if self.name not in JUDGED:
            pytest.skip(f"the {self.name} backend cannot run here")
        return backend_named(self.name)


class TestCpu(Here):
    name = "cpu"


class TestWgpu(Here):
    name = "wgpu"


def test_every_op_has_a_case():
    nodes = {node.op for node in small_layer()[1].nodes}
    for case in CASES:
        for trial in case.trials(np.random.default_rng(0)):
            nodes |= {node.op for node in graph_of(trial.weights, trial.build, trial.scaling).nodes}
    # Adapters have a test of their own.
    assert set(CORE_OPS) - nodes == {"lora"}


@pytest.mark.parametrize("backend", JUDGED)
def test_gates_far_from_zero(backend: str) -> None:
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


@pytest.mark.parametrize("backend", JUDGED)
def test_a_matrix_used_twice_is_there_once(backend: str) -> None:
    weights = MadeUpWeights(a=affine(np.random.default_rng(11), VOCABULARY, 64, Affine(8, 32)))
    once = compile_graph(backend, graph_of(weights, lambda g: g.embed("a")), weights)
    tied = graph_of(weights, lambda g: g.linear(g.embed("a"), "missing", tied="a"))
    twice = compile_graph(backend, tied, weights)
    assert once.weight_bytes == twice.weight_bytes
    for plan in (once, twice):
        plan.close()
