"""``shimmy serve``: the HTTP server."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import typer

from shimmy.cli.common import SERVING, bootstrap, settings_options
from shimmy.cli.output import is_terminal, printable, readable_context, readable_size
from shimmy.cli.progress import LoadingBar, LoadingLog
from shimmy.plugins import check_routes, chosen_frontends
from shimmy.server.keys import key_ring
from shimmy.server.listen import Listener, listen

if TYPE_CHECKING:
    from quart import Quart

    from shimmy.engine.launch import Early
    from shimmy.hooks import Plugins
    from shimmy.server.context import ServerContext
    from shimmy.server.run import Served
    from shimmy.server.served import ServedModel
    from shimmy.settings import Settings

#: Seconds between two looks at how far a load is.
LOOK_SECONDS = 0.1

_log = logging.getLogger(__name__)


@settings_options(*SERVING)
def command(ctx: typer.Context) -> None:
    """Serve the models at hand over HTTP, until Ctrl-C."""
    settings, plugins = bootstrap(ctx)
    check(settings, plugins)
    # Before the imports below: whoever connects meanwhile waits a moment instead of being refused.
    listener = listen(*settings.address)
    print(f"shimmy listens on {listener.url}", flush=True)
    if not listener.loopback_only and settings.api_key is None and settings.api_key_file is None:
        _log.warning(
            "reachable from other machines without any authentication: whoever reaches port %d can use it. "
            "Set api_key or api_key_file.",
            listener.port,
        )
    # While modules are made the collector finds nothing, and looking takes a tenth of the start.
    gc.disable()
    from shimmy.server.context import create_context
    from shimmy.server.run import run

    early: Early = ctx.obj
    context = create_context(settings, plugins, early.workers)
    run(early, context, listener, lambda: prepare(context, listener))


def check(settings: Settings, plugins: Plugins) -> None:
    """Find out what is wrong with the settings before anybody is told that there is a server.

    Raises:
        ConfigError: there should be API keys, but there are none; the model file is not there; or
            a model that is to have a further name is not.
        PluginError: two of the chosen frontends claim one route.
    """
    from shimmy.settings.checks import check_base

    check_routes(chosen_frontends(plugins, settings.frontends))
    key_ring(settings)
    check_base(settings)
    if any("=" in entry for entry in settings.served_model_name):
        # Only then are the sources asked before anybody waits for it.
        from shimmy.discovery.catalog import Catalog

        Catalog(settings, plugins).check_served_names()


def prepare(context: ServerContext, listener: Listener) -> Served:
    """The app and what to do when the default model is ready. Imports a lot."""
    from shimmy.server.app import choose_frontends, create_app
    from shimmy.server.run import Served

    frontends = choose_frontends(context.plugins, context.settings.frontends)
    app = create_app(context, frontends, bound=listener.hosts)
    if context.settings.watch:
        from shimmy.server.watch import watch

        watch(app, context)
    gc.freeze()
    gc.enable()
    give_back_memory()
    bar = show_loading(app, context)

    def on_ready(model: ServedModel) -> None:
        bar.close()
        examples = (each.frontend.example(listener.url, model) for each in frontends)
        print(banner(model, next(filter(None, examples), None)), flush=True)

    return Served(app, on_ready)


def give_back_memory() -> None:
    """Return to the system what compiling modules needed for a moment: 2 MiB of a first start.

    Only the C library of most Linux systems keeps it, and has a function for that.
    """
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def show_loading(app: Quart, context: ServerContext) -> LoadingBar | LoadingLog:
    """What follows the load of the default model while ``app`` is served: a bar, where one can be seen."""
    bar = LoadingBar("loading") if is_terminal(sys.stderr) else LoadingLog("loading")

    @app.while_serving
    async def _() -> AsyncGenerator[None, None]:
        following = asyncio.create_task(_follow(context, bar))
        yield
        following.cancel()
        bar.close()

    return bar


async def _follow(context: ServerContext, bar: LoadingBar | LoadingLog) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        states = [state for state in context.models.states() if state.name == context.default.name]
        if any(state.state in ("ready", "failed") for state in states) or context.default.error:
            bar.close()
            return
        for state in states:
            if state.progress:
                bar.update(state.progress.phase, state.progress.done, state.progress.total)


def banner(model: ServedModel, example: str | None) -> str:
    """What is served and how, and a first request to paste."""
    facts = model.facts
    context = readable_context(facts.context, facts.native_context, facts.rope_kind, facts.rope_factor)
    rows = {
        "model": f"{model.card.name} ({facts.architecture}, {model.card.quantization})",
        "engine": f"{facts.backend}, {facts.precision}: {facts.description} ({facts.backend_reason})",
        "context": f"{context}, {readable_size(facts.kv_bytes_per_token)} of KV cache each ({facts.kv_type})",
    }
    if there := facts.host_weight_bytes:
        own = readable_size(facts.weight_bytes - there)
        rows["weights"] = f"{own} on the GPU, {readable_size(there)} in the machine's memory"
    lines = [f"  {name:8} {printable(value)}" for name, value in rows.items()]
    return "\n".join([*lines, "", "Try:", f"  {example}"] if example else lines)
