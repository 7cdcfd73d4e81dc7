"""What the settings take from the engine that was chosen, and who gets it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from shimmy.engine.load import automatic_kv_memory
from shimmy.engine.offload import divided
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError, GraphError
from shimmy.graph.builder import Graph
from shimmy.registry import Registry
from shimmy.specs import BackendSpec
from tests import mixture
from tests.backend.harness import LIMITS, graph_of, no_progress
from tests.unit.engine.fake_plan import FakePlan

WEIGHTS = mixture.weights()
GRAPH = mixture.graph(WEIGHTS)
DENSE = graph_of(WEIGHTS, lambda g: g.last(g.linear(g.embed("token_embd"), "output")))


class Plain:
    step_tokens = 64

    def compile(self, graph: Graph, *_: Any) -> Any:
        return graph.nodes


class Card(Plain):
    def compile_split(self, split: Any, host: Any, *_: Any) -> Any:
        return split.what, host


class Processor(Plain):
    def compile_segments(self, *_: Any) -> Any:
        raise NotImplementedError


HOST = Processor()


def spec(name: str, priority: int, backend: Any, problem: str | None = None) -> BackendSpec:
    return BackendSpec(name, priority, lambda: problem, lambda plugins: backend)


OTHERS = (spec("slow", 5, Processor()), spec("host", 10, HOST), spec("plain", 15, Plain()))


def compiled(
    *others: BackendSpec,
    graph: Graph = GRAPH,
    on: Plain | None = None,
    backend: str = "auto",
    **settings: Any,
) -> Any:
    registry: Registry[BackendSpec] = Registry("backend")
    main = spec("main", 20, on or Card())
    for each in (main, *(others or OTHERS)):
        registry.add(each.name, each, "test")
    plugins = SimpleNamespace(backends=registry)
    given = EngineSettings(backend=backend, **settings)
    both, note = divided("main", main.load(plugins), given, plugins)
    assert both.step_tokens == 64
    return both.compile(graph, WEIGHTS, LIMITS, no_progress), note


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"gpu_layers": 2}, "layer 0"),
        ({"gpu_layers": 0}, "layers 0 to 2"),
        ({"cpu_moe": True}, "experts of 2 layers"),
        ({"n_cpu_moe": 2}, "experts of 1 layer"),
        ({"gpu_layers": 1, "cpu_moe": True}, "layers 0 to 1, experts of 1 layer"),
    ],
)
def test_the_best_other_engine_that_can_gets_it(settings: dict[str, Any], what: str) -> None:
    assert compiled(**settings) == ((what, HOST), None)


@pytest.mark.parametrize("settings", [{}, {"gpu_layers": 3}, {"gpu_layers": 99}, {"n_cpu_moe": 1}])
def test_nothing_leaves(settings: dict[str, Any]) -> None:
    assert compiled(**settings) == (GRAPH.nodes, None)


def test_an_engine_that_leaves_nothing_says_so_or_refuses() -> None:
    plan, note = compiled(on=Plain(), gpu_layers=4, cpu_moe=True)
    assert plan == GRAPH.nodes
    assert note == "main computes all in the machine's memory, whatever gpu_layers and cpu_moe says"
    with pytest.raises(ConfigError, match="n_cpu_moe is set, but engine_backend is 'main'"):
        compiled(on=Plain(), backend="main", n_cpu_moe=1)


def test_settings_that_cannot_be_meant() -> None:
    for engine in (Card(), Plain()):
        with pytest.raises(ConfigError, match="experts of all layers, n_cpu_moe those of 3"):
            compiled(on=engine, cpu_moe=True, n_cpu_moe=3)
    with pytest.raises(ConfigError, match="cpu_moe is set, but the model has no experts"):
        compiled(graph=DENSE, cpu_moe=True)


def test_what_cannot_leave_is_told_with_the_setting() -> None:
    with pytest.raises(GraphError, match="cannot be computed apart") as caught:
        compiled(graph=graph_of(WEIGHTS, mixture.two_values), gpu_layers=1)
    assert caught.value.hint == "Leave gpu_layers out."


def test_nobody_can_compute_it() -> None:
    broken = spec("host", 10, HOST, "no LLVM")
    with pytest.raises(ConfigError, match=r"what is to leave main \(host: no LLVM\)"):
        compiled(broken, gpu_layers=1)
    with pytest.raises(ConfigError, match="none is loaded"):
        compiled(spec("judge", -1, HOST), gpu_layers=1)


def test_the_kv_cache_of_two_memories_grows_as_far_as_both_have_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shimmy.engine.load.available_memory", lambda: 1000)
    plan = FakePlan()
    plan.device_memory, plan.block_bytes = 100, 10
    plan.host = SimpleNamespace(block_bytes=2, mapped_bytes=0)
    assert automatic_kv_memory(plan) == 80 // 8 * 10
    plan.host = SimpleNamespace(block_bytes=2, mapped_bytes=990)
    assert automatic_kv_memory(plan) == 5 // 2 * 10
    plan.host = SimpleNamespace(block_bytes=10, mapped_bytes=0)
    assert automatic_kv_memory(plan) == 500
    plan.host = SimpleNamespace(block_bytes=0, mapped_bytes=0)
    assert automatic_kv_memory(plan) == 80
