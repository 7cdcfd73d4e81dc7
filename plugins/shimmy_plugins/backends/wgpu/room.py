"""How much of a GPU's memory a graph needs, and how many of its layers would fit instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, prod

from shimmy.engine.context import MIN_CONTEXT
from shimmy.engine.load import DEVICE_KV_SHARE
from shimmy.engine.plan import Limits
from shimmy.errors import GraphError, OutOfMemoryError
from shimmy.graph.builder import Graph
from shimmy.graph.offload import expert_layers, layer_count, layer_of, split
from shimmy_plugins.backends.wgpu.device import Gpu, readable
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS, head_bytes
from shimmy_plugins.backends.wgpu.memory import FLOAT
from shimmy_plugins.backends.wgpu.ops.rope import angle_key
from shimmy_plugins.backends.wgpu.unpacking import CHUNK_BYTES
from shimmy_plugins.backends.wgpu.weights import GpuWeights


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
        self._positions = min(MIN_CONTEXT, limits.max_ctx)
        """Of the smallest context that is of use."""

    def require(self, graph: Graph) -> None:
        """OutOfMemoryError at once if not even the weights of a graph fit."""
        needed = self._weight_bytes(graph)
        if self._free is None or needed <= self._free:
            return
        with self.advising(graph):
            raise OutOfMemoryError(
                f"the model's weights take {readable(needed)} on {self._gpu.facts.name}, "
                f"where {readable(self._free)} may be taken.",
                hint="Raise gpu_memory, or set engine_backend to 'cpu'.",
            )

    def require_cache(self, block_bytes: int) -> None:
        """OutOfMemoryError if a compiled graph leaves no room for a KV cache that is of use."""
        needed = -(-self._positions // BLOCK_TOKENS) * block_bytes
        free = self._gpu.free
        if free is None or needed <= free * DEVICE_KV_SHARE:
            return
        raise OutOfMemoryError(
            f"the model leaves {readable(free)} on {self._gpu.facts.name}; the KV cache may take "
            f"{DEVICE_KV_SHARE:.0%} of it, and needs {readable(needed)} for {self._positions} positions.",
            hint="Raise gpu_memory, or take a smaller kv_type.",
        )

    @contextmanager
    def advising(self, graph: Graph) -> Iterator[None]:
        """Let what does not fit while the graph is compiled be told with what would fit instead."""
        try:
            yield
        except OutOfMemoryError as error:
            settings = self.settings_for(graph, self._positions)
            advice = f"Set {settings}: the CPU computes the rest from the machine's memory."
            raise OutOfMemoryError(error.message, hint=advice if settings else error.hint) from error

    def settings_for(self, graph: Graph, positions: int) -> str | None:
        """See :meth:`shimmy.engine.plan.AdvisingPlan.settings_for`."""
        if self._free is None:
            return None
        layers = layer_count(graph)
        ways = []
        last = max(expert_layers(graph), default=-1)
        least = next((n for n in range(1, last + 2) if self._fits(graph, positions, experts_of=n)), None)
        if least is not None:
            ways.append("cpu_moe" if least > last else f"n_cpu_moe to {least} (of {layers})")
        kept = range(layers - 1, -1, -1)
        most = next((n for n in kept if self._fits(graph, positions, keep_layers=n)), None)
        if most is not None:
            ways.append(f"gpu_layers to {most} (of {layers})")
        return ", or ".join(ways) or None

    def _fits(
        self, graph: Graph, positions: int, *, keep_layers: int | None = None, experts_of: int = 0
    ) -> bool:
        try:
            parts = split(graph, keep_layers=keep_layers, experts_of=experts_of)
        except GraphError:
            return False
        if parts is None or self._free is None:
            return False
        return self._bytes(parts.graph) + self._cache_bytes(parts.graph, positions) <= self._free

    def _bytes(self, graph: Graph) -> int:
        """At most what a graph needs to run, but for its KV cache."""
        parts = (self._weight_bytes, self._loading_bytes, self._value_bytes, self._table_bytes)
        return sum(part(graph) for part in parts)

    def _weight_bytes(self, graph: Graph) -> int:
        return sum(map(self._weights.size_of, tensors_of(graph)))

    def _loading_bytes(self, graph: Graph) -> int:
        """Of weights on their way."""
        return min(max(map(self._weights.size_of, tensors_of(graph)), default=0), CHUNK_BYTES)

    def _value_bytes(self, graph: Graph) -> int:
        """The values of the layer that has most of them: those of others lie in the same memory."""
        widths: Counter[int] = Counter()
        for node in graph.nodes:
            if (layer := layer_of(node)) is not None:
                widths[layer] += prod(node.shape)
        limits = self._limits
        rows = limits.step_tokens + limits.max_sequences
        return FLOAT * rows * max(widths.values(), default=0)

    def _table_bytes(self, graph: Graph) -> int:
        """The angles of rotations."""
        tables = {angle_key(node) for node in graph.nodes if node.op == "rope"}
        return FLOAT * self._limits.max_ctx * sum(dims for _, dims, *_ in tables)

    def _cache_bytes(self, graph: Graph, positions: int) -> int:
        """What there must be for a cache to have a share of it."""
        nodes = graph.nodes
        heads = [nodes[i].shape for node in nodes if node.op == "attention" for i in node.inputs[1:]]
        kv_type = self._limits.kv_type
        position = sum(count * head_bytes(kv_type, dims) for count, dims in heads)
        blocks = -(-positions // BLOCK_TOKENS)
        return ceil(blocks * BLOCK_TOKENS * position / DEVICE_KV_SHARE)
