"""``shimmy plugins``: what is installed, what became of it, and why."""

from __future__ import annotations

import dataclasses

import typer

from shimmy.cli.common import AsJson, bootstrap
from shimmy.cli.output import print_json, print_table


def command(ctx: typer.Context, json: AsJson = False) -> None:
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
