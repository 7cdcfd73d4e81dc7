"""bench: how fast a model runs here, against what the machine could do and against other engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add ``shimmy bench``, ``shimmy bench-load`` and ``shimmy bench-start``."""
    from shimmy_plugins.commands.bench.command import command as bench
    from shimmy_plugins.commands.bench.load.command import command as bench_load
    from shimmy_plugins.commands.bench.start.command import command as bench_start

    app.command("bench")(bench)
    app.command("bench-load")(bench_load)
    app.command("bench-start")(bench_start)
