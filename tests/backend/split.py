"""The GPU's engine, leaving a part of every graph to the CPU's."""

from __future__ import annotations

from typing import Any

from shimmy.engine.plan import Limits, OffloadingBackend, Plan, Progress, SegmentBackend
from shimmy.graph.builder import Graph
from shimmy.graph.offload import split
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from tests.backend.harness import PLUGINS, backend_named


class SplitBackend:
    """``wishes`` are the arguments of :func:`shimmy.graph.offload.split`."""

    step_tokens = 1024

    def __init__(self, gpu: Gpu | None = None, **wishes: int) -> None:
        self._main = WgpuBackend(PLUGINS, gpu) if gpu else backend_named("wgpu")
        self._wishes = wishes

    def compile(self, graph: Graph, weights: Any, limits: Limits, progress: Progress) -> Plan:
        parts, host = split(graph, **self._wishes), backend_named("cpu")
        if parts is None:
            return self._main.compile(graph, weights, limits, progress)
        assert isinstance(self._main, OffloadingBackend)
        assert isinstance(host, SegmentBackend)
        return self._main.compile_split(parts, host, weights, limits, progress)
