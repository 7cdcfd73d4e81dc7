"""``shimmy shaders dump``: the WGSL that a model runs on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shimmy.cli.common import FINDING, NAMING, OFFLOADING, ModelName, bootstrap, find_model, settings_options
from shimmy.cli.output import print_facts
from shimmy.errors import ConfigError

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings
    from shimmy_plugins.backends.wgpu.plan import WgpuPlan

shaders = typer.Typer(
    help="Look at the shaders of the GPU engine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@shaders.callback()
def _group() -> None:
    """Makes ``dump`` a command of its own, though it is the only one."""


@shaders.command("dump")
@settings_options(*FINDING, *NAMING, *OFFLOADING, "precision", "gpu", "gpu_memory", "max_ctx", "kv_type")
def dump_command(
    ctx: typer.Context,
    name: ModelName = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder; default: NAME-wgsl, here.")
    ] = None,
) -> None:
    """Write the final WGSL of a model's kernels, and the order in which they run."""
    settings, plugins = bootstrap(ctx)
    card = find_model(settings, plugins, name)
    from shimmy_plugins.backends.wgpu.dump import LISTING, dump

    folder = out or Path(f"{card.name.replace('/', '_')}-wgsl")
    with closing(compiled(card, settings, plugins)) as plan:
        kernels = dump(plan.lowered, folder)
        counts = {phase: len(items) for phase, items in plan.lowered.items()}
    print_facts(
        [
            ("folder", str(folder)),
            ("kernels", str(kernels)),
            ("dispatches", ", ".join(f"{count} for {phase} rows" for phase, count in counts.items())),
            ("order", LISTING),
        ]
    )


def compiled(card: ModelCard, settings: Settings, plugins: Plugins) -> WgpuPlan:
    """The model on the GPU that the settings name. Raises ShimmyError."""
    from shimmy.cli.progress import loading_bar
    from shimmy.engine.load import limits_for, record_model
    from shimmy.engine.offload import divided
    from shimmy.engine.settings import EngineSettings
    from shimmy_plugins.backends import wgpu
    from shimmy_plugins.backends.wgpu.plan import WgpuPlan

    if settings.gpu == "auto" and (problem := wgpu.probe()):
        raise ConfigError(
            f"shaders are made for a GPU: {problem}.",
            hint="Name one that `shimmy gpu-info` lists with --gpu.",
            param="gpu",
        )
    engine = EngineSettings.of(settings)
    with loading_bar(card.name) as bar:
        model = record_model(card.path, card.name, engine, plugins, bar.update)
        backend, _ = divided("wgpu", wgpu.load(plugins), engine, plugins)
        limits = limits_for(model.context, engine, backend)
        plan = backend.compile(model.graph, model.weights, limits, bar.update)
    assert isinstance(plan, WgpuPlan)
    return plan
