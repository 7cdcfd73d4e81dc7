"""What the backend tests share beyond shimmy.testing: the engines of this machine, by name."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from shimmy.engine.plan import Backend, Limits, Plan, Progress
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph
from shimmy.plugins import load_plugins
from shimmy.testing import plans
from shimmy.testing.compare import assert_close
from shimmy.testing.plans import FLAT, LIMITS, flatten, graph_of, no_progress
from shimmy.testing.steps import GREEDY, Part, as_it_is, batch_of, generate_greedy, rows_of
from shimmy.testing.weights import AFFINE, F32, Affine, MadeUpWeights, affine, floats
from shimmy_plugins.backends.wgpu.adapters import list_adapters
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu

#: Of the kit what most of these tests need.
__all__ = [
    "AFFINE",
    "BACKENDS",
    "F32",
    "FLAT",
    "GPU",
    "GREEDY",
    "JUDGED",
    "LIMITS",
    "PLUGINS",
    "Affine",
    "MadeUpWeights",
    "Part",
    "affine",
    "as_it_is",
    "assert_agree",
    "assert_close",
    "backend_named",
    "batch_of",
    "compile_graph",
    "compile_model",
    "compile_with",
    "flatten",
    "floats",
    "generate_greedy",
    "gpu_of",
    "graph_of",
    "no_progress",
    "rows_of",
]

PLUGINS = load_plugins()

#: How much larger than in the file packed weights may be. Types that take weights from a grid, or five from a
#: byte, have each weight by itself there; those with a scale for more than 32 weights
#: have a byte more for each 32.
LARGER = {
    "IQ1_S": 2.16,
    "IQ1_M": 2.08,
    "IQ2_XXS": 1.64,
    "IQ2_XS": 1.57,
    "IQ2_S": 1.42,
    "IQ3_XXS": 1.43,
    "IQ3_S": 1.26,
    "TQ1_0": 1.38,
    "TQ2_0": 1.13,
    "Q2_0": 1.12,
    "Q1_0": 1.23,
}
LARGER_OTHERS = 1.04


def _gpu() -> str:
    """The best GPU's name, be it a software one; "auto" if there is none, or wgpu cannot be loaded."""
    try:
        return next((adapter.facts.name for adapter in list_adapters()), "auto")
    except (OSError, RuntimeError):
        return "auto"


GPU = _gpu()


#: Engines that run here, by name, and those among them that the reference judges.
BACKENDS = sorted(
    spec.name for spec in PLUGINS.backends if spec.probe() is None or (spec.name == "wgpu" and GPU != "auto")
)
JUDGED = [name for name in BACKENDS if name != "reference"]


def gpu_of(backend: str) -> str:
    """The setting ``gpu`` for a backend to run here."""
    return GPU if backend == "wgpu" else "auto"


@functools.cache
def backend_named(name: str) -> Backend:
    """A backend; that for GPUs computes on the best there is, be it a software one, which stays open."""
    if name == "wgpu":
        return WgpuBackend(PLUGINS, Gpu(list_adapters()[0]))
    return PLUGINS.backends.get(name).load(PLUGINS)


def compile_graph(backend: str, graph: Graph, weights: MadeUpWeights, limits: Limits = LIMITS) -> Plan:
    """A small graph on a backend, by its name."""
    return plans.compile_graph(backend_named(backend), graph, weights, limits)


def compile_model(backend: str, path: Path, limits: Limits = LIMITS) -> Plan:
    """A model file on a backend, by its name."""
    return compile_with(backend_named(backend), path, limits)


def compile_with(
    backend: Backend, path: Path, limits: Limits = LIMITS, progress: Progress = no_progress
) -> Plan:
    """A model file on a backend."""
    return plans.compile_model(backend, path, PLUGINS, limits, progress)


def assert_agree(
    graph: Graph,
    weights: MadeUpWeights,
    batches: Iterable[Batch],
    backend: str,
    *,
    blocks: int = 8,
    limits: Limits = LIMITS,
) -> None:
    """Both the reference and ``backend`` run the batches, in order, with the same result."""
    plans.assert_agree(backend_named(backend), graph, weights, batches, blocks=blocks, limits=limits)
