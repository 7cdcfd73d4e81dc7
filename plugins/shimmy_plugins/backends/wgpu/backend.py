"""Compiles a graph: chooses the GPU, fuses, lowers both phases, loads weights, builds pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod

from shimmy.engine.plan import Limits, Progress, SegmentBackend
from shimmy.errors import ConfigError
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import Graph
from shimmy.graph.expand import expand
from shimmy.graph.offload import Split
from shimmy.hooks import Plugins
from shimmy_plugins.backends.wgpu.adapted import Adapted
from shimmy_plugins.backends.wgpu.budget import open_gpu
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.fusion import fuse
from shimmy_plugins.backends.wgpu.generated import Generated
from shimmy_plugins.backends.wgpu.host import HostPart
from shimmy_plugins.backends.wgpu.lora import LoraState
from shimmy_plugins.backends.wgpu.plan import Phase, WgpuPlan
from shimmy_plugins.backends.wgpu.program import PhaseProgram
from shimmy_plugins.backends.wgpu.prompts import Prompts
from shimmy_plugins.backends.wgpu.room import Room, tensors_of
from shimmy_plugins.backends.wgpu.shared import Shared, precision_of
from shimmy_plugins.backends.wgpu.singles import OPS


class WgpuBackend:
    """The engine for GPUs. Shaders are its own and those that plugins register."""

    step_tokens = 1024

    def __init__(self, plugins: Plugins, gpu: Gpu | None = None) -> None:
        """``gpu``: an open device, for tests; else a plan opens the one that its limits ask for."""
        self._composer = Composer({source.name: source.folder for source in plugins.shader_sources})
        self._row_ops = {
            op: f"{source.name}/{path}"
            for source in plugins.shader_sources
            for op, path in source.row_ops.items()
        }
        self._gpu = gpu

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> WgpuPlan:
        """Raises GraphError (a stateful op without a kernel), OutOfMemoryError, EngineError, ConfigError."""
        if limits.instructions != "auto":
            raise ConfigError(
                f"instructions is {limits.instructions!r}, and a GPU has none of the processor's.",
                hint="Set instructions to 'auto', or engine_backend to 'cpu'.",
                param="instructions",
            )
        return self._compile(graph, weights, limits, progress)

    def compile_split(
        self, split: Split, host: SegmentBackend, weights: Weights, limits: Limits, progress: Progress
    ) -> WgpuPlan:
        """Raises like ``compile``. Both sides compute in the GPU's precision."""

        def make_host() -> HostPart:
            theirs = replace(limits, precision=precision_of(limits))
            return HostPart(host.compile_segments(split.host, weights, theirs, progress), split)

        return self._compile(split.graph, weights, limits, progress, make_host)

    def _compile(
        self,
        graph: Graph,
        weights: Weights,
        limits: Limits,
        progress: Progress,
        make_host: Callable[[], HostPart] | None = None,
    ) -> WgpuPlan:
        graph = expand(graph, OPS | self._row_ops.keys())
        gpu = self._open(limits, progress)
        vocabulary = prod(graph.nodes[graph.output].shape)
        shared = Shared(gpu, self._composer, self._row_ops, weights, limits, vocabulary, tensors_of(graph))
        room = Room(gpu, shared.weights, limits)
        room.require(graph)
        host = make_host() if make_host else None
        shared.segments = host.segments.run if host else None
        try:
            with room.advising(graph):
                plan = self._lower(shared, graph, host, room, progress)
                room.require_cache(shared.cache.block_bytes)
                return plan
        except BaseException:
            if host:
                host.segments.close()
            raise

    def _open(self, limits: Limits, progress: Progress) -> Gpu:
        progress("GPU", 0, 1)
        gpu = self._gpu or open_gpu(limits.gpu, limits.gpu_memory)
        progress("GPU", 1, 1)
        return gpu

    def _lower(
        self, shared: Shared, graph: Graph, host: HostPart | None, room: Room, progress: Progress
    ) -> WgpuPlan:
        gpu, limits = shared.gpu, shared.limits

        def phases(adapters: LoraState | None = None) -> list[Phase]:
            apart = adapters is not None and adapters.experts
            items = fuse(graph, shared.weights.mergeable, experts_alone=apart)
            lowerings = (
                Generated(shared, graph, limits.max_sequences, adapters),
                Prompts(shared, graph, limits.step_tokens, adapters),
            )
            for lowering in lowerings:
                lowering.lower(items)
            return [(lowering, PhaseProgram(gpu, lowering.program)) for lowering in lowerings]

        progress("weights", 0, 1)
        plain = phases()
        progress("weights", 1, 1)
        kernels = [*shared.sampler.kernels, *(k for _, program in plain for k in program.kernels)]
        for done, kernel in enumerate(kernels):
            # Begun while weights were loaded.
            progress("shaders", done, len(kernels))
            gpu.pipeline(kernel.source, kernel.label)
        progress("shaders", len(kernels), len(kernels))
        experts = [node.label for node in graph.nodes if node.op == "expert_linear"]
        adapted = Adapted(gpu, limits, phases, frozenset(experts))
        advise = partial(room.settings_for, graph)
        return WgpuPlan(shared, plain, adapted, advise, owns_gpu=self._gpu is None, host=host)
