"""``shimmy plugins``: what is installed, what became of it, and why."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from shimmy.cli.common import bootstrap
from shimmy.cli.output import print_json, print_table


def command(
    ctx: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the plugins and what became of each."""
    _, plugins = bootstrap(ctx)
    if json:
        print_json([dataclasses.asdict(info) for info in plugins.infos])
        return
    rows = [
        (info.name, info.distribution, info.version, info.status, info.detail or ", ".join(info.hooks))
        for info in plugins.infos
    ]
    print_table(("name", "distribution", "version", "status", "hooks or reason"), rows)
