"""``shimmy serve``: the HTTP server."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

import typer

from shimmy.cli.common import bootstrap, settings_options
from shimmy.server.listen import listen

if TYPE_CHECKING:
    from shimmy.server.models import ServedModel

_log = logging.getLogger(__name__)


@settings_options(
    "host",
    "port",
    "bind_address",
    "allowed_hosts",
    "allowed_origins",
    "frontends",
    "base_gguf",
    "models_dir",
    "engine_backend",
    "precision",
    "threads",
    "max_ctx",
    "kv_memory",
    "max_sequences",
    "max_loaded_models",
)
def command(ctx: typer.Context) -> None:
    """Serve the models at hand over HTTP, until Ctrl-C."""
    settings, plugins = bootstrap(ctx)
    # Before the imports below: whoever connects meanwhile waits a moment instead of being refused.
    listener = listen(*settings.address)
    print(f"shimmy listens on {listener.url}", flush=True)
    if not listener.loopback_only:
        _log.warning(
            "reachable from other machines without any authentication: whoever reaches port %d can use it.",
            listener.port,
        )
    # While modules are made the collector finds nothing, and looking takes a tenth of the start.
    gc.disable()
    from shimmy.server.app import choose_frontends, create_app
    from shimmy.server.context import create_context
    from shimmy.server.run import run

    context = create_context(settings, plugins)
    frontends = choose_frontends(plugins, settings.frontends)
    app = create_app(context, frontends, bound=listener.hosts)
    gc.freeze()
    gc.enable()

    def on_ready(model: ServedModel) -> None:
        examples = (each.frontend.example(listener.url, model) for each in frontends)
        print(banner(model, next(filter(None, examples), None)), flush=True)

    run(app, context, listener, on_ready)


def banner(model: ServedModel, example: str | None) -> str:
    """What is served and how, and a first request to paste."""
    facts = model.facts
    rows = {
        "model": f"{model.card.name} ({facts.architecture}, {model.card.quantization})",
        "engine": f"{facts.backend}, {facts.precision}: {facts.description}",
        "context": f"{facts.context} tokens",
    }
    lines = [f"  {name:8} {value}" for name, value in rows.items()]
    return "\n".join([*lines, "", "Try:", f"  {example}"] if example else lines)
