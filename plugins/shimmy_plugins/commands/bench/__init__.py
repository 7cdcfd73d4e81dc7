"""bench: how fast a model runs here, against what the machine could do and against other engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add ``shimmy bench``."""
    from shimmy_plugins.commands.bench.command import command

    app.command("bench")(command)
