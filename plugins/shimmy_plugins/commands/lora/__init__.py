"""lora: look into adapters, convert them to GGUF, and merge them into their bases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add ``shimmy lora``."""
    from shimmy_plugins.commands.lora.command import lora

    app.add_typer(lora, name="lora")
