"""verify: whether an engine computes a model as its definition says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add ``shimmy verify``."""
    from shimmy_plugins.commands.verify.command import command

    app.command("verify")(command)
