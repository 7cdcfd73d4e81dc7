"""Compiles a graph: lays out its weights, lowers it, builds the kernels, packs, starts the threads."""

from __future__ import annotations

from typing import TypeVar

from shimmy.caches import cache_folder
from shimmy.engine.plan import Limits, Progress
from shimmy.errors import EngineError, OutOfMemoryError
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import Graph
from shimmy.graph.expand import expand
from shimmy_plugins.backends.cpu.compiler import LOWER, lower, matrices
from shimmy_plugins.backends.cpu.jit import Jit, Target
from shimmy_plugins.backends.cpu.loading import PackedWeights
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import FREE_MEMORY
from shimmy_plugins.backends.cpu.object_cache import ObjectCache
from shimmy_plugins.backends.cpu.packed_cache import PackedCache
from shimmy_plugins.backends.cpu.plan import Compiled, CpuPlan, CpuSegments, Executable
from shimmy_plugins.backends.cpu.pool import DRIVER, Pool, driver_ir

_Kind = TypeVar("_Kind", bound=Compiled)


class CpuBackend:
    """The engine for machines without a usable GPU; ``target`` and ``cache`` are for tests."""

    step_tokens = 128

    def __init__(self, target: Target | None = None, cache: ObjectCache | None = None) -> None:
        self._target = target or Target.host()
        self._cache = cache or ObjectCache()

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> CpuPlan:
        """Raises GraphError (a stateful op without a kernel), OutOfMemoryError, EngineError, ConfigError."""
        return self._compile(CpuPlan, graph, weights, limits, progress)

    def compile_segments(
        self, graph: Graph, weights: Weights, limits: Limits, progress: Progress
    ) -> CpuSegments:
        """Raises like ``compile``."""
        return self._compile(CpuSegments, graph, weights, limits, progress)

    def _compile(
        self, kind: type[_Kind], graph: Graph, weights: Weights, limits: Limits, progress: Progress
    ) -> _Kind:
        if problem := self._target.problem():
            raise EngineError(f"the cpu backend cannot run here: {problem}.")
        target = self._target.at_most(limits.instructions)
        try:
            return self._load(kind, expand(graph, LOWER), weights, limits, target, progress)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"the model does not fit into memory: {error}.", hint=FREE_MEMORY
            ) from error

    def _load(
        self,
        kind: type[_Kind],
        graph: Graph,
        weights: Weights,
        limits: Limits,
        target: Target,
        progress: Progress,
    ) -> _Kind:
        packed = PackedWeights(weights, _packed_cache(weights, limits, progress))
        packed.lay_out(matrices(graph))
        jit = Jit(target, self._cache)

        def executable(base: Lowering | None = None) -> Executable:
            lowered = lower(graph, weights, packed, limits, target, base)
            kernels = {kernel.name: kernel.ir for kernel in lowered.program.kernels()}
            # With adapters it is made while others are served, who are not loading.
            return Executable(lowered, jit.compile(kernels, progress if base is None else _silent))

        plain = executable()
        kernels = {kernel.name: kernel.ir for kernel in packed.kernels()}
        addresses = jit.compile({**kernels, DRIVER: driver_ir}, progress)
        packed.load(addresses, limits.threads, progress)
        return kind(plain, executable, jit, Pool(limits.threads, addresses[DRIVER]))


def _silent(_phase: str, _done: int, _total: int) -> None:
    """Nobody waits for this."""


def _packed_cache(weights: Weights, limits: Limits, progress: Progress) -> PackedCache | None:
    """Where packed weights are kept, if they shall be and can be."""
    if not limits.packed_cache:
        return None
    folder = cache_folder() / "packed"
    content = weights.content(folder, limits.threads, progress)
    if content is None:
        return None
    return PackedCache(folder, content, limits.packed_cache)
