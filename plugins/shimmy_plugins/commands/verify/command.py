"""``shimmy verify``: its options, and the way from them to a verdict."""

from __future__ import annotations

from typing import Annotated

import typer

from shimmy.cli.common import (
    COMPUTING,
    FINDING,
    NAMING,
    OFFLOADING,
    ModelName,
    bootstrap,
    find_model,
    settings_options,
)

#: What the command ends with when the engine computes otherwise than it should.
FAILED = 1


@settings_options(*FINDING, *NAMING, *COMPUTING, *OFFLOADING, "kv_type")
def command(
    ctx: typer.Context,
    name: ModelName = None,
    references: Annotated[
        str | None,
        typer.Option(metavar="FILE[#KEY]", help="Also compare with answers of another program, on record."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every comparison.")] = False,
) -> None:
    """Compare what an engine makes of a model with what its definition says.

    Ends with exit code 1 if anything differs by more than it may.
    """
    settings, plugins = bootstrap(ctx)
    card = find_model(settings, plugins, name)
    # Only here: NumPy and an engine are for those who compute.
    from shimmy.cli.progress import loading_bar
    from shimmy_plugins.commands.verify.run import run

    with loading_bar(card.name, quiet=json) as bar:
        report = run(card, settings, plugins, bar.update, references)
    if json:
        report.print_json()
    else:
        report.print_tables()
    if report.verdict.failed:
        raise typer.Exit(FAILED)
