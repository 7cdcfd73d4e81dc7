"""``shimmy lora inspect``, ``convert`` and ``merge``: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shimmy.cli.common import bootstrap, settings_options
from shimmy.cli.output import print_facts, print_json
from shimmy.errors import ConfigError

lora = typer.Typer(
    help="Look into LoRA adapters, convert and merge them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Input = Annotated[Path, typer.Argument(metavar="ADAPTER", help="A trainer's folder, or a GGUF adapter.")]
Output = Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write.")]
Base = Annotated[Path, typer.Argument(metavar="BASE.gguf", help="The model it was trained on.")]
Scale = Annotated[float, typer.Option(help="How strongly the adapter is applied.")]


@lora.command("inspect")
def inspect(
    ctx: typer.Context,
    adapter: Input,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check an adapter's files and tell what it is."""
    from shimmy.lora.facts import adapter_facts
    from shimmy.lora.read import read_adapter

    _, plugins = bootstrap(ctx)
    facts = adapter_facts(read_adapter(adapter.absolute(), plugins.quant_types))
    if json:
        print_json(facts)
        return
    print_facts((name, _shown(value)) for name, value in facts.items())


@lora.command("convert")
@settings_options("model_paths", "models_dir")
def convert(
    ctx: typer.Context,
    adapter: Input,
    out: Output,
    base: Annotated[
        Path | None, typer.Option(help="Its base, a GGUF file; default: found among the models at hand.")
    ] = None,
) -> None:
    """Write an adapter as GGUF, with the names and the order of rows of its base."""
    from shimmy_plugins.commands.lora.convert import convert as write
    from shimmy_plugins.commands.lora.fitted import find_base

    settings, plugins = bootstrap(ctx)
    _check_new(out)
    place = adapter.absolute()
    write(base or find_base(place, settings, plugins), place, out, plugins)


@lora.command("merge")
def merge(ctx: typer.Context, base: Base, adapter: Input, out: Output, scale: Scale = 1.0) -> None:
    """Write the base with the adapter added to its weights, in the types they have."""
    from shimmy_plugins.commands.lora.merge import merge as write

    _, plugins = bootstrap(ctx)
    _check_new(out)
    for name, types in write(base, adapter.absolute(), out, scale, plugins).items():
        typer.echo(f"{name} is {types[1]} now: {types[0]} can be read, but not written.", err=True)


def _check_new(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} is there already.", hint="Name a file that is not.")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
