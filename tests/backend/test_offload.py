"""Plans whose graph is split between two engines: what they compute, and where memory lies."""

from __future__ import annotations

import pytest

from shimmy.engine.plan import Limits, OffloadingBackend, Plan, SegmentBackend
from shimmy.graph.offload import split
from tests import mixture
from tests.backend.harness import (
    BACKENDS,
    LIMITS,
    Part,
    assert_close,
    backend_named,
    batch_of,
    compile_graph,
    no_progress,
    rows_of,
)

pytestmark = pytest.mark.skipif("wgpu" not in BACKENDS, reason="no GPU adapter, not even a software one")

WEIGHTS = mixture.weights()
GRAPH = mixture.graph(WEIGHTS)
WISHES = [{"keep_layers": 0}, {"keep_layers": 1}, {"experts_of": 9}, {"keep_layers": 2, "experts_of": 3}]
STEPS = [
    batch_of([Part([1, 2, 3], 0, [0])]),
    batch_of([Part([5], 3, [0]), Part([7, 8, 9, 10], 0, [1]), Part([11, 12], 0, [2])]),
    batch_of([Part([6], 4, [0]), Part([3], 4, [1]), Part([13, 14], 2, [2])], every_row=True),
]


def compile_split(wishes: dict[str, int], limits: Limits = LIMITS) -> Plan:
    parts = split(GRAPH, **wishes)
    assert parts is not None
    gpu, host = backend_named("wgpu"), backend_named("cpu")
    assert isinstance(gpu, OffloadingBackend)
    assert isinstance(host, SegmentBackend)
    return gpu.compile_split(parts, host, WEIGHTS, limits, no_progress)


@pytest.mark.parametrize("wishes", WISHES, ids=str)
def test_agrees_with_the_reference(wishes: dict[str, int]) -> None:
    plans = compile_graph("reference", GRAPH, WEIGHTS), compile_split(wishes)
    for plan in plans:
        plan.reserve(3)
    for batch in STEPS:
        expected, found = (rows_of(plan, batch) for plan in plans)
        assert_close(found, expected)
    for plan in plans:
        plan.close()
