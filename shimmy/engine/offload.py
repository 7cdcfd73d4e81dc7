"""What leaves a model's graph by the settings, who computes it, and a backend of both together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy.engine.choice import choose_host
from shimmy.engine.plan import Backend, OffloadingBackend
from shimmy.errors import ConfigError, GraphError
from shimmy.graph.offload import Split, expert_layers, layer_count, split

if TYPE_CHECKING:
    from shimmy.engine.plan import Limits, Plan, Progress
    from shimmy.engine.settings import EngineSettings
    from shimmy.gguf.weights import Weights
    from shimmy.graph.builder import Graph
    from shimmy.plugins import Plugins


class Divided:
    """A backend that leaves to another what the settings take from it."""

    def __init__(
        self, name: str, main: OffloadingBackend, settings: EngineSettings, plugins: Plugins
    ) -> None:
        self.step_tokens = main.step_tokens
        self._name = name
        self._main = main
        self._settings = settings
        self._plugins = plugins

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> Plan:
        """See :meth:`Backend.compile`.

        Raises:
            ConfigError: the settings contradict each other, or what is there.
            ShimmyError: as that does.
        """
        parts = parts_of(graph, self._settings)
        if parts is None:
            return self._main.compile(graph, weights, limits, progress)
        host = choose_host(self._name, self._plugins)
        return self._main.compile_split(parts, host, weights, limits, progress)


def divided(
    name: str, backend: Backend, settings: EngineSettings, plugins: Plugins
) -> tuple[Backend, str | None]:
    """The backend that was chosen, leaving to another what the settings take from it; and what there is to
    say about settings that change nothing.

    Raises:
        ConfigError: the settings contradict each other.
    """
    asked = asked_for(settings)
    if not asked:
        return backend, None
    if settings.cpu_moe and settings.n_cpu_moe:
        raise ConfigError(
            f"cpu_moe takes the experts of all layers, n_cpu_moe those of {settings.n_cpu_moe}.",
            hint="Leave one of the two out.",
            param="n_cpu_moe",
        )
    if isinstance(backend, OffloadingBackend):
        return Divided(name, backend, settings, plugins), None
    if settings.backend != "auto":
        raise ConfigError(
            f"{' and '.join(asked)} is set, but engine_backend is {settings.backend!r}, which leaves "
            "nothing to another engine.",
            hint="Leave one of the two out.",
            param=asked[0],
        )
    return backend, f"{name} computes all in the machine's memory, whatever {' and '.join(asked)} says"


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
        ConfigError: the model has no experts, which should leave.
        GraphError: what should leave cannot be computed apart.
    """
    wanted = "cpu_moe" if settings.cpu_moe else "n_cpu_moe" if settings.n_cpu_moe else None
    if wanted and not expert_layers(graph):
        raise ConfigError(
            f"{wanted} is set, but the model has no experts.",
            hint="Leave it out; gpu_layers keeps whole layers in the machine's memory.",
            param=wanted,
        )
    experts_of = layer_count(graph) if settings.cpu_moe else settings.n_cpu_moe
    try:
        return split(graph, keep_layers=settings.gpu_layers, experts_of=experts_of)
    except GraphError as error:
        hint = f"Leave {' and '.join(asked_for(settings))} out."
        raise GraphError(error.message, hint=hint) from error
