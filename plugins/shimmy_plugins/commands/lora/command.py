"""``shimmy lora inspect``, ``convert`` and ``merge``: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shimmy.cli.common import AsJson, bootstrap, settings_options
from shimmy.cli.output import print_facts, print_json
from shimmy.errors import AdapterError, ConfigError

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


#: Where models at hand are looked for.
_PLACES = ("model_paths", "models_dir", "auto_discover")


@lora.command("inspect")
@settings_options(*_PLACES)
def inspect(
    ctx: typer.Context,
    adapter: Input,
    json: AsJson = False,
) -> None:
    """Check an adapter's files and tell what it is, and to which model at hand it belongs."""
    from shimmy.lora.facts import adapter_facts
    from shimmy.lora.read import read_adapter
    from shimmy_plugins.commands.lora.fitted import find_base

    settings, plugins = bootstrap(ctx)
    read = read_adapter(adapter.absolute(), plugins.quant_types)
    facts = adapter_facts(read)
    try:
        facts |= {"belongs_to": find_base(read, settings, plugins).name, "unpaired": None}
    except AdapterError as error:
        facts |= {"belongs_to": None, "unpaired": str(error)}
    if json:
        print_json(facts)
        return
    print_facts((name, _shown(value)) for name, value in facts.items() if name != "unpaired" or value)


@lora.command("convert")
@settings_options(*_PLACES)
def convert(
    ctx: typer.Context,
    adapter: Input,
    out: Output,
    base: Annotated[
        Path | None, typer.Option(help="Its base, a GGUF file; default: found among the models at hand.")
    ] = None,
) -> None:
    """Write an adapter as GGUF, with the names and the order of rows of its base."""
    from shimmy.lora.read import read_adapter
    from shimmy_plugins.commands.lora.convert import convert as write
    from shimmy_plugins.commands.lora.fitted import find_base

    settings, plugins = bootstrap(ctx)
    _check_new(out)
    place = adapter.absolute()
    if base is None:
        base = find_base(read_adapter(place, plugins.quant_types), settings, plugins).path
    write(base, place, out, settings, plugins)


@lora.command("merge")
@settings_options(*_PLACES)
def merge(ctx: typer.Context, base: Base, adapter: Input, out: Output, scale: Scale = 1.0) -> None:
    """Write the base with the adapter added to its weights, in the types they have."""
    from shimmy_plugins.commands.lora.merge import merge as write

    settings, plugins = bootstrap(ctx)
    _check_new(out)
    changed = write(base, adapter.absolute(), out, scale, settings, plugins)
    for name, types in changed.items():
        typer.echo(f"{name} is {types[1]} now: {types[0]} can be read, but not written.", err=True)


def _check_new(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} is there already.", hint="Name a file that is not.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {str(path.absolute().parent)!r}.", hint="Make it first.")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
