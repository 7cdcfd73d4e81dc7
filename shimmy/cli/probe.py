"""``shimmy probe``: load a model for real, run a few tokens, tell all about it."""

from __future__ import annotations

import logging

import typer

from shimmy.cli.common import (
    ENGINE,
    FINDING,
    NAMING,
    TEXT,
    AsJson,
    ModelName,
    bootstrap,
    find_model,
    settings_options,
)
from shimmy.cli.output import print_error, print_facts, print_json, printable
from shimmy.errors import ModelNotFoundError

_log = logging.getLogger(__name__)

#: What the command ends with when the model does not work.
FAILED = 2


@settings_options(*FINDING, *NAMING, *TEXT, *ENGINE)
def command(
    ctx: typer.Context,
    name: ModelName = None,
    json: AsJson = False,
) -> None:
    """Load a model, run a few tokens, and show how it would be served.

    Ends with exit code 1 if there is no such model, and 2 if it cannot be loaded or run.
    """
    from shimmy.cli.probe_report import as_facts, probe
    from shimmy.engine.protocol import ErrorInfo

    settings, plugins = bootstrap(ctx)
    try:
        card = find_model(settings, plugins, name)
        report = probe(card, settings, plugins, quiet=json)
    except ModelNotFoundError:
        raise
    except Exception as error:  # a model's plugins are programs: anything may happen inside
        _log.debug("the probe failed", exc_info=True)
        print_error("probe failed", ErrorInfo.of(error).to_error())
        raise typer.Exit(FAILED) from None
    if json:
        print_json(report)
        return
    print(f"ok: loaded {printable(card.name)}\n")
    print_facts(as_facts(report))
