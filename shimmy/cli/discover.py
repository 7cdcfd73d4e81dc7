"""``shimmy discover``: what each source found, and where it looked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer

from shimmy.cli.common import FINDING, NAMING, AsJson, bootstrap, settings_options
from shimmy.cli.list import print_clashes, print_models, print_no_models, print_skipped
from shimmy.cli.output import print_json, print_table, readable_size
from shimmy.discovery.catalog import Catalog, ModelCard, Searched, Skipped


@settings_options(*FINDING, *NAMING)
def command(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also show what was skipped, and why, and all places searched.")
    ] = False,
    json: AsJson = False,
    llm_only: Annotated[bool, typer.Option(hidden=True)] = False,  # noqa: ARG001 - what is found always is
) -> None:
    """Show what each source of models found, and where."""
    catalog = Catalog(*bootstrap(ctx))
    catalog.check_served_names()
    models = sorted(catalog.models(), key=lambda card: (card.source, card.name))
    skipped, searched = catalog.skipped, catalog.searched
    aliases = {card.name: catalog.aliases(card.name) for card in models}
    if json:
        rows = [dataclasses.asdict(card) | {"aliases": aliases[card.name]} for card in models]
        print_json(
            {"models": rows, "clashes": catalog.clashes()}
            | (_details(skipped, searched) if everything else {})
        )
        return
    if models:
        headers = ("source", "name", "also called", "size")
        print_models(headers, models, lambda card: _row(card, aliases[card.name]))
        print_clashes(catalog.clashes())
    else:
        print_no_models()
    if everything:
        print_skipped(skipped)
        print_places(searched)
    elif skipped:
        print(f"\nSkipped: {len(skipped)}. `shimmy discover --all` says what, and why.")


def print_places(searched: Sequence[Searched]) -> None:
    """Print where sources looked, and whether it is there."""
    print()
    rows = [(str(row.path), row.source, "yes" if row.exists else "no") for row in searched]
    print_table(("searched", "source", "exists"), rows)


def _row(card: ModelCard, aliases: Sequence[str]) -> tuple[str, ...]:
    return card.source, card.name, ", ".join(aliases), readable_size(card.size_bytes)


def _details(skipped: Sequence[Skipped], searched: Sequence[Searched]) -> dict[str, object]:
    return {
        "skipped": [dataclasses.asdict(row) for row in skipped],
        "searched": [dataclasses.asdict(row) for row in searched],
    }
