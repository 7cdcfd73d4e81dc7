"""init: skeletons of plugins, whose tests run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add ``shimmy init``."""
    from shimmy_plugins.commands.init.command import init

    app.add_typer(init, name="init")
