"""``shimmy list``: the models at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from shimmy.cli.common import FINDING, NAMING, AsJson, bootstrap, settings_options
from shimmy.cli.output import print_json, print_table, printable, readable_count, readable_size
from shimmy.discovery.catalog import Catalog, ModelCard, Skipped


@settings_options(*FINDING, *NAMING)
def command(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list what is no usable model, and why.")
    ] = False,
    short: Annotated[bool, typer.Option("--short", "-s", help="Print names only, one a line.")] = False,
    json: AsJson = False,
) -> None:
    """List the models that can be served, also under names of your own."""
    catalog = Catalog(*bootstrap(ctx))
    catalog.check_served_names()
    own = (replace(card, name=name) for name, card in catalog.own_names().items())
    models = [*catalog.models(), *own]
    skipped = catalog.skipped if everything else []
    if json:
        listing: dict[str, Any] = {"models": [dataclasses.asdict(card) for card in models]}
        listing["clashes"] = catalog.clashes()
        if everything:
            listing["skipped"] = [dataclasses.asdict(row) for row in skipped]
        print_json(listing)
        return
    if short:
        print("".join(f"{printable(card.name)}\n" for card in models), end="")
    elif models:
        print_models(("name", "size", "parameters", "quantization", "context"), models, _model_row)
        print_clashes(catalog.clashes())
    else:
        print_no_models()
    print_skipped(skipped)


def print_models(
    headers: Sequence[str], models: Sequence[ModelCard], row: Callable[[ModelCard], tuple[str, ...]]
) -> None:
    """Print a table of models: columns of its own, the bases of adapters if there are any, and paths."""
    bases = any(card.base for card in models)
    rows = [
        (*row(card), *([_base(card)] if bases else []), str(card.adapter or card.path)) for card in models
    ]
    print_table((*headers, *(["base"] if bases else []), "path"), rows)


def print_clashes(clashes: Mapping[str, Sequence[str]]) -> None:
    """Print, below a table, which names are those of none, as several might have them."""
    if clashes:
        print()
    for name, names in clashes.items():
        print(f"Several are called {printable(name)!r}: {', '.join(map(printable, names))}.")


def print_no_models() -> None:
    """Say that nothing can be served, and what to do about it."""
    print("No models. Name a GGUF file with --base-gguf, or a folder of them with --models-dir.")


def print_skipped(skipped: Sequence[Skipped]) -> None:
    """Print a table, below others, of what is no usable model; nothing if there is none."""
    if skipped:
        print()
        rows = [(str(row.path or "-"), row.source, row.reason) for row in skipped]
        print_table(("skipped", "source", "reason"), rows)


def _model_row(card: ModelCard) -> tuple[str, ...]:
    context = str(card.context_length) if card.context_length else "?"
    count = "?" if card.parameters is None else readable_count(card.parameters)
    size, quantization = readable_size(card.size_bytes), card.quantization or "?"
    if card.path.is_dir():
        quantization += " (converted)"
    return card.name, size, count, quantization, context


def _base(card: ModelCard) -> str:
    return card.base.name if card.base else ""
