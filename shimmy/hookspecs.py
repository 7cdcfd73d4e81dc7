"""Every hook, nothing else.

Three families: ``register_*`` collects, through a callback, once at start; ``select_*``,
``resolve_*`` and ``handle_*`` ask a question, the first answer that is not None wins; the rest,
in past tense or progressive, report. No hook runs per token or per op. A plugin names only the
arguments it wants. "Runs in" says which process calls the hook: the server (also the CLI), the
engine worker, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pluggy import HookspecMarker

if TYPE_CHECKING:
    import typer
    from quart import Request, ResponseReturnValue, Websocket

    from shimmy.discovery.catalog import FoundModel, ModelCard
    from shimmy.events import ModelLoaded, ModelUnloaded, RequestFinished, RequestStarted
    from shimmy.server.context import ServerContext
    from shimmy.specs import (
        ArchitectureSpec,
        BackendSpec,
        ChatTemplateSpec,
        DiscoverySourceSpec,
        FrontendSpec,
        MetricSpec,
        OpSpec,
        QuantTypeSpec,
        SettingsSpec,
        ShaderSourceSpec,
        TokenizerSpec,
    )

hookspec = HookspecMarker("shimmy")


@hookspec
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    """Add model architectures. Runs in: both."""


@hookspec
def register_quant_types(register: Callable[[QuantTypeSpec], None]) -> None:
    """Add tensor types of GGUF files. Runs in: both."""


@hookspec
def register_tokenizers(register: Callable[[TokenizerSpec], None]) -> None:
    """Add vocabulary kinds of GGUF files. Runs in: both."""


@hookspec
def register_chat_templates(register: Callable[[ChatTemplateSpec], None]) -> None:
    """Add template families for models that carry no chat template. Runs in: server."""


@hookspec
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    """Add places where models may lie. Runs in: server."""


@hookspec
def register_api_frontends(register: Callable[[FrontendSpec], None]) -> None:
    """Add APIs to the HTTP server. Runs in: server."""


@hookspec
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """Add compute engines. Runs in: both (only the worker loads one)."""


@hookspec
def register_ops(register: Callable[[OpSpec], None]) -> None:
    """Add graph ops with their NumPy definition. Runs in: engine."""


@hookspec
def register_shader_sources(register: Callable[[ShaderSourceSpec], None]) -> None:
    """Add WGSL for the GPU engine: folders of shaders, ops they compute. Runs in: engine."""


@hookspec
def register_settings(register: Callable[[SettingsSpec], None]) -> None:
    """Declare what ``[plugins.settings.<name>]`` may hold. Runs in: server."""


@hookspec
def register_commands(app: typer.Typer) -> None:
    """Add commands to the ``shimmy`` command line; import inside their bodies. Runs in: server."""


@hookspec
def register_metrics(register: Callable[[MetricSpec], None]) -> None:
    """Add numbers to ``/metrics``. Runs in: server."""


@hookspec(firstresult=True)
def select_backend(card: ModelCard, available: Sequence[str]) -> str | None:
    """Name this model's backend out of ``available``, best first; None leaves it open. Runs in: engine."""


@hookspec(firstresult=True)
def select_chat_template(card: ModelCard) -> str | None:
    """Name the template family for a model that carries none; None leaves it open. Runs in: server."""


@hookspec(firstresult=True)
def resolve_model(name: str) -> FoundModel | None:
    """Find a model that no source listed, by the name a request used; None if unknown. Runs in: server."""


@hookspec(firstresult=True)
def handle_error(error: Exception, request: Request | Websocket) -> ResponseReturnValue | None:
    """Answer a failed request instead of the frontend's own error body. Runs in: server."""


@hookspec
def server_started(context: ServerContext) -> None:
    """The server listens. Runs in: server."""


@hookspec
def server_stopping(context: ServerContext) -> None:
    """The server is about to stop; requests may still be running. Runs in: server."""


@hookspec
def model_loaded(event: ModelLoaded) -> None:
    """A model is ready to answer. Runs in: server."""


@hookspec
def model_unloaded(event: ModelUnloaded) -> None:
    """A model's engine process has ended. Runs in: server."""


@hookspec
def request_started(event: RequestStarted) -> None:
    """A request was given to the engine. Runs in: server."""


@hookspec
def request_finished(event: RequestFinished) -> None:
    """A request has ended, however it ended. Runs in: server."""
