"""What all programs of a plan work with."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal

from shimmy.engine.plan import Limits
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import Node
from shimmy.graph.offload import RunSegment
from shimmy.graph.rope import rope_frequencies
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu, Slice
from shimmy_plugins.backends.wgpu.kvcache import KVCache
from shimmy_plugins.backends.wgpu.layouts import AffineLayout
from shimmy_plugins.backends.wgpu.memory import FLOAT, Activations
from shimmy_plugins.backends.wgpu.ops.norm import norm_tensors
from shimmy_plugins.backends.wgpu.ops.rope import angle_key, angle_table
from shimmy_plugins.backends.wgpu.sampling import GpuSampler
from shimmy_plugins.backends.wgpu.weights import GpuMatrix, GpuWeights

Precision = Literal["f32", "int8"]


def precision_of(limits: Limits) -> Precision:
    """The arithmetic of a plan."""
    return "int8" if limits.precision == "int8" else "f32"


class Shared:
    """Weights, cache, logits, sampler, and what a model needs once."""

    def __init__(
        self,
        gpu: Gpu,
        composer: Composer,
        row_ops: Mapping[str, str],
        source: Weights,
        limits: Limits,
        vocabulary: int,
        names: Set[str] | None = None,
    ) -> None:
        """``names``: the tensors that programs need, if these are not all."""
        self.gpu = gpu
        self.composer = composer
        self.segments: RunSegment | None = None
        """Who computes segments of the graph, where there are some."""
        self.row_ops = row_ops
        """Shaders of ops that compute a row from rows, by op."""
        self.source = source
        self.weights = GpuWeights(gpu, source, composer, names)
        self.limits = limits
        self.precision: Precision = precision_of(limits)
        self.cache = KVCache(gpu, limits.kv_type)
        self.vocabulary = vocabulary
        self.outputs = limits.max_outputs or limits.max_sequences
        self.logits = gpu.buffer(self.outputs * vocabulary * FLOAT, "logits").whole()
        """F32, (outputs, vocabulary)."""
        self.chosen = gpu.buffer(self.outputs * FLOAT, "chosen tokens").whole()
        """i32: the tokens chosen for the outputs of the step before."""
        self.sampler = GpuSampler(gpu, composer, vocabulary, self.outputs, self.logits, self.chosen)
        self._angles: dict[tuple[object, ...], Slice] = {}
        self._activations: dict[str, Activations] = {}

    def activations(self, label: str) -> Activations:
        """Memory for the values of a phase's next program; in a step, only one of them runs."""
        memory = self._activations.setdefault(label, Activations(self.gpu, label))
        memory.restart()
        return memory

    def angles(self, node: Node) -> Slice:
        """The table of a rotation's cosines and sines, for all positions."""
        key = angle_key(node)
        if key not in self._angles:
            base, dims, scaling, name = key
            factors = None if name is None else self.source.dequantize(name).ravel()
            table = angle_table(rope_frequencies(base, dims, scaling, factors), self.limits.max_ctx)
            place = self.gpu.buffer(table.nbytes, "angles").whole()
            self.gpu.upload(place, table)
            self._angles[key] = place
        return self._angles[key]

    def norm(self, node: Node) -> Slice:
        """What a norm multiplies with, and what it adds behind that."""
        return self.weights.vectors(norm_tensors(node))

    def computes(self, matrix: GpuMatrix) -> Precision:
        """The arithmetic of products with a matrix."""
        return self.precision if isinstance(matrix.layout, AffineLayout) else "f32"
