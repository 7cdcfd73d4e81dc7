"""How much of a GPU's memory a graph needs, and how many of its layers would fit instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from shimmy.engine.plan import Limits
from shimmy.errors import GraphError, OutOfMemoryError
from shimmy.graph.builder import Graph
from shimmy.graph.offload import expert_layers, layer_count, layer_of, split
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kvcache import head_bytes
from shimmy_plugins.backends.wgpu.memory import FLOAT
from shimmy_plugins.backends.wgpu.weights import GpuWeights

#: Positions of context that there should be room for.
_CONTEXT = 512


def tensors_of(graph: Graph) -> set[str]:
    """Names of the tensors that a graph needs."""
    return {name for node in graph.nodes for name in node.weights.values()}


class Room:
    """What the plan of a graph may take of a GPU."""

    def __init__(self, gpu: Gpu, weights: GpuWeights, limits: Limits) -> None:
        self._gpu = gpu
        self._free = gpu.free
        self._weights = weights
        self._limits = limits

    def require(self, graph: Graph) -> None:
        """OutOfMemoryError at once if not even the weights of a graph fit."""
        needed = self._weight_bytes(graph)
        if self._free is None or needed <= self._free:
            return
        with self.advising(graph):
            raise OutOfMemoryError(
                f"the model's weights take {needed / 2**20:.0f} MiB on {self._gpu.facts.name}, "
                f"where {self._free / 2**20:.0f} MiB may be taken."
            )

    @contextmanager
    def advising(self, graph: Graph) -> Iterator[None]:
        """Let what does not fit while the graph is compiled be told with what would fit instead."""
        try:
            yield
        except OutOfMemoryError as error:
            raise OutOfMemoryError(error.message, hint=self._advice(graph) or error.hint) from error

    def _advice(self, graph: Graph) -> str | None:
        """The settings with which the graph would fit; None if there are none, or it is not known."""
        if self._free is None:
            return None
        layers = layer_count(graph)
        fitting = next((n for n in range(layers - 1, -1, -1) if self._fits(graph, keep_layers=n)), None)
        ways = [] if fitting is None else [f"gpu_layers to {fitting} (of {layers})"]
        if expert_layers(graph) and self._fits(graph, experts_of=layers):
            ways.insert(0, "cpu_moe")
        if not ways:
            return None
        return f"Set {', or '.join(ways)}: the CPU computes the rest from the machine's memory."

    def _fits(self, graph: Graph, *, keep_layers: int | None = None, experts_of: int = 0) -> bool:
        try:
            parts = split(graph, keep_layers=keep_layers, experts_of=experts_of)
        except GraphError:
            return False
        return parts is not None and self._free is not None and self._bytes(parts.graph) <= self._free

    def _bytes(self, graph: Graph) -> int:
        """At most what a graph needs to run, with a small KV cache."""
        return self._weight_bytes(graph) + self._value_bytes(graph) + self._cache_bytes(graph)

    def _weight_bytes(self, graph: Graph) -> int:
        return sum(map(self._weights.size_of, tensors_of(graph)))

    def _value_bytes(self, graph: Graph) -> int:
        """The values of the layer that has most of them: those of others lie in the same memory."""
        widths: Counter[int] = Counter()
        for node in graph.nodes:
            if (layer := layer_of(node)) is not None:
                widths[layer] += prod(node.shape)
        limits = self._limits
        rows = limits.step_tokens + limits.max_sequences
        return FLOAT * rows * max(widths.values(), default=0)

    def _cache_bytes(self, graph: Graph) -> int:
        nodes = graph.nodes
        heads = [nodes[i].shape for node in nodes if node.op == "attention" for i in node.inputs[1:]]
        kv_type = self._limits.kv_type
        return _CONTEXT * sum(count * head_bytes(kv_type, dims) for count, dims in heads)
