"""Plans to test: of small graphs over made-up weights, and of model files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.load import op_table, read_architecture
from shimmy.engine.plan import Backend, Limits, Plan, Progress
from shimmy.engine.recording import record_file
from shimmy.gguf.reader import GGUFFile, open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Architecture, Graph, Value
from shimmy.graph.ops import CORE_OPS, Op
from shimmy.graph.scaling import PLAIN, RopeScaling, read_scaling
from shimmy.plugins import Plugins
from shimmy.testing.compare import assert_close
from shimmy.testing.engines import JUDGE
from shimmy.testing.steps import rows_of
from shimmy.testing.weights import MadeUpWeights

F32 = NDArray[np.float32]
AnyWeights: TypeAlias = MadeUpWeights | Weights

#: Exact arithmetic, which the definitions can judge by its bits; tests of other precisions say so.
LIMITS = Limits(max_ctx=512, max_sequences=8, step_tokens=128, threads=2, max_outputs=128, precision="f32")


def no_progress(phase: str, done: int, total: int) -> None:
    """Nobody watches."""


def flatten(x: F32) -> F32:
    """The definition of ``flat``."""
    return x.reshape(len(x), -1)


#: Turns heads back into a row; as a plugin's op would, it runs by this definition on every engine.
FLAT = Op("flat", "One row of all heads.", lambda i, _w, _a: (prod(i[0]),), f"{__name__}:flatten")


def graph_of(weights: AnyWeights, build: Callable[[Graph], Value], scaling: RopeScaling = PLAIN) -> Graph:
    """A small graph; its inputs are embeddings of the token ids."""
    graph = Graph(weights, {**CORE_OPS, FLAT.name: FLAT}, scaling)
    graph.output = build(graph).index
    return graph


def compile_graph(backend: Backend, graph: Graph, weights: AnyWeights, limits: Limits = LIMITS) -> Plan:
    """A small graph on a backend."""
    return backend.compile(graph, cast("Weights", weights), limits, no_progress)


def assert_agree(
    backend: Backend,
    graph: Graph,
    weights: AnyWeights,
    batches: Iterable[Batch],
    *,
    blocks: int = 8,
    limits: Limits = LIMITS,
    tolerance: float = 1e-5,
) -> None:
    """A backend runs the batches, in order, with the result of the definitions."""
    plans = [compile_graph(each, graph, weights, limits) for each in (JUDGE, backend)]
    for plan in plans:
        plan.reserve(blocks)
    for number, batch in enumerate(batches):
        expected, found = (rows_of(plan, batch) for plan in plans)
        what = f"{graph.nodes[graph.output].label}: step {number}, of {len(batch.tokens)} tokens,"
        assert_close(found, expected, tolerance, what)
    for plan in plans:
        plan.close()


@dataclass(frozen=True, slots=True)
class Model:
    """A model file that is read, but not compiled."""

    path: Path
    file: GGUFFile
    architecture: str
    definition: Architecture
    params: Any
    weights: Weights
    graph: Graph


def read_model(path: Path, plugins: Plugins, context: int = LIMITS.max_ctx) -> Model:
    """Read a GGUF file and record its graph. Raises ShimmyError, as serving it would."""
    file = open_gguf(path)
    weights = Weights(file, plugins.quant_types)
    name = file.metadata["general.architecture"]
    params, definition = read_architecture(name, file, plugins)
    scaling = read_scaling(file.metadata, name, weights, context)
    graph = record_file(definition, params, file.metadata, weights, op_table(plugins), scaling)
    return Model(path, file, name, definition, params, weights, graph)


def compile_model(
    backend: Backend,
    path: Path,
    plugins: Plugins,
    limits: Limits = LIMITS,
    progress: Progress = no_progress,
) -> Plan:
    """A model file on a backend."""
    model = read_model(path, plugins, limits.max_ctx)
    return backend.compile(model.graph, model.weights, limits, progress)
