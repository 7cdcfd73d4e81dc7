"""A plan that interprets the graph: every node by its NumPy definition, all arithmetic in F32."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import FinishedStep, Limits, Progress, Segments
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling, choose
from shimmy.errors import ConfigError
from shimmy.gguf.weights import Weights
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Node
from shimmy.graph.evaluate import Evaluator, evaluator
from shimmy.graph.lora import Terms, with_lora
from shimmy.graph.reference import ReferenceCache

F32 = NDArray[np.float32]

BLOCK_TOKENS = 32
F32_BYTES = 4


class ReferencePlan:
    """Weights are expanded to F32 when first used and kept; the KV cache grows block by block.

    It is kept in F32 whatever its type: numbers are rounded as the type would, and take no less memory.
    """

    precision = "f32"
    description = "NumPy reference"
    block_tokens = BLOCK_TOKENS
    fallbacks: tuple[str, ...] = ()
    phases = False
    ahead = 1

    def __init__(self, graph: Graph, weights: Weights, kv_type: str) -> None:
        graph = with_lora(graph)
        used = {name for node in graph.nodes for name in node.weights.values()}
        self.kv_type = kv_type
        self.weight_bytes = sum(F32_BYTES * prod(weights.shape(name)) for name in used)
        self.mapped_bytes = 0
        self.device_memory: int | None = None
        self.device_bytes: int | None = None
        self.host: Segments | None = None
        self.block_bytes = sum(self._kv_bytes(graph, node) for node in graph.nodes if node.op == "attention")
        self._output = graph.output
        self._weights = weights
        self._expanded: dict[str, F32] = {}
        self._cache = ReferenceCache(BLOCK_TOKENS, kv_type)
        self._adapters: dict[int, Terms] = {}
        self._program: list[Evaluator] = [evaluator(graph.ops[node.op], node) for node in graph.nodes]
        self._last_use = {i: node.index for node in graph.nodes for i in node.inputs}
        self._last_use[graph.output] = -1  # is needed after the last node

    @staticmethod
    def _kv_bytes(graph: Graph, node: Node) -> int:
        """Memory of one block's keys and values in the layer of an attention node."""
        _, k, v = (graph.nodes[i].shape for i in node.inputs)
        return BLOCK_TOKENS * (prod(k) + prod(v)) * F32_BYTES

    def reserve(self, blocks: int) -> None:
        stored = self._cache.blocks
        self._cache.blocks = {key: block for key, block in stored.items() if key[1] < blocks}

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        if terms is None:
            del self._adapters[place]
        else:
            self._adapters[place] = terms

    def samples_ahead(self, sampling: Sampling) -> bool:
        """False: ``submit`` returns when all is known."""
        del sampling
        return False

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> FinishedStep:
        context = {"batch": batch, "cache": self._cache, "adapters": self._adapters}
        values: dict[int, F32] = {}
        for run in self._program:
            node = run.node
            weights = {role: self._weight(name) for role, name in node.weights.items()}
            values[node.index] = run([values[i] for i in node.inputs], weights, context)
            for i in set(node.inputs):
                if self._last_use[i] == node.index:
                    del values[i]
        logits = values[self._output]
        return FinishedStep(logits, [choose(*row) for row in zip(logits, sampling, strict=True)])

    def close(self) -> None:
        self._expanded.clear()
        self._cache.blocks.clear()

    def _weight(self, name: str) -> F32:
        if name not in self._expanded:
            self._expanded[name] = self._weights.dequantize(name).reshape(self._weights.shape(name))
        return self._expanded[name]


class ReferenceBackend:
    """Interprets any graph whose ops have a NumPy definition, that is: any graph."""

    step_tokens = 128

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> ReferencePlan:
        if limits.precision not in ("auto", "f32"):
            raise ConfigError(
                f"precision is {limits.precision!r}, and the reference backend computes in f32 only.",
                hint="Set precision to 'f32' or 'auto', or choose another engine_backend.",
                param="precision",
            )
        if limits.instructions != "auto":
            raise ConfigError(
                f"instructions is {limits.instructions!r}, and the reference backend leaves them to NumPy.",
                hint="Set instructions to 'auto', or choose another engine_backend.",
                param="instructions",
            )
        del progress  # nothing is loaded ahead
        return ReferencePlan(graph, weights, limits.kv_type)
