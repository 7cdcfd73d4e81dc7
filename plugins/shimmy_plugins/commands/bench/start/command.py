"""``shimmy bench-start``: its options, and the way from them to a report."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shimmy.cli.common import AsJson, bootstrap, settings_options
from shimmy_plugins.commands.bench.options import (
    ModelName,
    PeerKvType,
    QuantName,
    ServerPeer,
    ShapeName,
    WaitInAll,
    model_file,
    show,
    tell,
)
from shimmy_plugins.commands.bench.servers import PASSED_ON

#: Tokens of the prompt, of the answer, and of the context that a peer makes room for.
_PROMPT, _ANSWER, _CONTEXT = 16, 4, 2048


@settings_options(*PASSED_ON, "models_dir")
def command(
    ctx: typer.Context,
    model: ModelName = None,
    shape: ShapeName = None,
    quant: QuantName = "Q4_0",
    repetitions: Annotated[int, typer.Option(min=1, help="Starts that count, of each server.")] = 5,
    max_foreign: Annotated[
        float, typer.Option(min=0, max=100, help="Drop starts during which others used more CPU, in %.")
    ] = 5.0,
    wait: WaitInAll = 30.0,
    vs: ServerPeer = None,
    peer_kv_type: PeerKvType = None,
    json: AsJson = False,
) -> None:
    """Measure how long a server of this model takes to start, with warm caches and with cold ones."""
    settings, plugins = bootstrap(ctx)
    # Only here: the engine's modules are for those who measure.
    from shimmy_plugins.commands.bench.clients import Question
    from shimmy_plugins.commands.bench.prompts import text_encoder
    from shimmy_plugins.commands.bench.samples import Rules
    from shimmy_plugins.commands.bench.server_choice import PeerOptions, launches
    from shimmy_plugins.commands.bench.start.report import StartReport
    from shimmy_plugins.commands.bench.start.run import entrants, run

    path = model_file(model, shape, quant, settings, plugins)
    started = entrants(launches(path, settings, PeerOptions(vs, peer_kv_type, _CONTEXT, 1)))
    prompt = text_encoder(path, plugins)("Once upon a time " * _PROMPT)[:_PROMPT]
    # The round before those that count fills the caches.
    rules = Rules(repetitions, 1, max_foreign / 100, wait)
    samples = run(started, Question(prompt, _ANSWER), rules, tell)
    report = StartReport(path, rules, started, samples, ("shimmy", *sys.argv[1:]))
    show(report, json=json)
