"""What leaves a model's graph by the settings, who computes it, and the plan of both together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy.engine.choice import choose_host
from shimmy.engine.plan import Backend, OffloadingBackend
from shimmy.errors import ConfigError
from shimmy.graph.offload import Split, expert_layers, layer_count, split

if TYPE_CHECKING:
    from shimmy.engine.plan import Limits, Plan, Progress
    from shimmy.engine.protocol import EngineSettings
    from shimmy.gguf.weights import Weights
    from shimmy.graph.builder import Graph
    from shimmy.plugins import Plugins


def compile_plan(
    graph: Graph,
    weights: Weights,
    limits: Limits,
    settings: EngineSettings,
    chosen: tuple[str, Backend],
    plugins: Plugins,
    progress: Progress,
) -> tuple[Plan, str | None]:
    """The plan of the backend that was chosen (its name, itself), with what the settings take from it left
    to another; and what there is to say about settings that change nothing.

    Raises:
        ConfigError: the settings contradict each other, or what is there.
        ShimmyError: as :meth:`Backend.compile` does.
    """
    name, backend = chosen
    asked = asked_for(settings)
    if not asked:
        return backend.compile(graph, weights, limits, progress), None
    if not isinstance(backend, OffloadingBackend):
        if settings.backend != "auto":
            raise ConfigError(
                f"{' and '.join(asked)} is set, but engine_backend is {settings.backend!r}, which leaves "
                "nothing to another engine.",
                hint="Leave one of the two out.",
                param=asked[0],
            )
        note = f"{name} computes all in the machine's memory, whatever {' and '.join(asked)} says"
        return backend.compile(graph, weights, limits, progress), note
    parts = parts_of(graph, settings)
    if parts is None:
        return backend.compile(graph, weights, limits, progress), None
    host = choose_host(name, plugins)
    return backend.compile_split(parts, host, weights, limits, progress), None


def asked_for(settings: EngineSettings) -> list[str]:
    """The settings that ask for something to leave the GPU."""
    given = {
        "gpu_layers": settings.gpu_layers is not None,
        "cpu_moe": settings.cpu_moe,
        "n_cpu_moe": settings.n_cpu_moe > 0,
    }
    return [name for name, is_set in given.items() if is_set]


def parts_of(graph: Graph, settings: EngineSettings) -> Split | None:
    """The graph in two by the settings; None if all of it stays.

    Raises:
        ConfigError: two settings contradict each other, or the model has no experts.
        GraphError: what should leave cannot be computed apart.
    """
    if settings.cpu_moe and settings.n_cpu_moe:
        raise ConfigError(
            f"cpu_moe takes the experts of all layers, n_cpu_moe those of {settings.n_cpu_moe}.",
            hint="Leave one of the two out.",
            param="n_cpu_moe",
        )
    wanted = "cpu_moe" if settings.cpu_moe else "n_cpu_moe" if settings.n_cpu_moe else None
    if wanted and not expert_layers(graph):
        raise ConfigError(
            f"{wanted} is set, but the model has no experts.",
            hint="Leave it out; gpu_layers keeps whole layers in the machine's memory.",
            param=wanted,
        )
    experts_of = layer_count(graph) if settings.cpu_moe else settings.n_cpu_moe
    return split(graph, keep_layers=settings.gpu_layers, experts_of=experts_of)
