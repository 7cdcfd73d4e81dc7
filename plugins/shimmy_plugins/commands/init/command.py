"""``shimmy init architecture`` and ``quant``: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shimmy.cli.common import bootstrap
from shimmy.errors import ConfigError

init = typer.Typer(
    help="Write the skeleton of a plugin: a package that can be installed, and tests that pass.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

Folder = Annotated[
    Path | None,
    typer.Argument(metavar="FOLDER", help="Where to write it; default: a new folder of the package's name."),
]


@init.command("architecture")
def architecture(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What GGUF files call it (`general.architecture`).")
    ],
    folder: Folder = None,
) -> None:
    """Write a package with a small model architecture, to be made into yours."""
    from shimmy_plugins.commands.init.skeleton import ARCHITECTURE, write_skeleton

    _, plugins = bootstrap(ctx)
    if name in plugins.architectures:
        raise ConfigError(f"the architecture {name!r} is there already: see `shimmy plugins`.")
    _tell(write_skeleton(ARCHITECTURE, name, folder))


@init.command("quant")
def quant(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The type as ggml would call it: Q4_X.")],
    folder: Folder = None,
    ggml_id: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Its number in GGUF files.")] = 1000,
) -> None:
    """Write a package with a tensor type of 4 bits, to be made into yours."""
    from shimmy.gguf.types import known_name, types_by_id
    from shimmy_plugins.commands.init.skeleton import QUANT, write_skeleton

    _, plugins = bootstrap(ctx)
    if name in plugins.quant_types:
        raise ConfigError(f"the type {name!r} is there already: see `shimmy plugins`.")
    other = types_by_id(plugins.quant_types).get(ggml_id)
    taken = other.name if other else known_name(ggml_id)
    if taken not in (name, None):
        raise ConfigError(f"{ggml_id} is the number of {taken}.", param="--ggml-id")
    _tell(write_skeleton(QUANT, name, folder, ggml_id=ggml_id))


def _tell(folder: Path) -> None:
    typer.echo(f"{folder} is written. Next:\n")
    typer.echo(f"  uv pip install -e '{folder}[test]'\n  pytest {folder}")
