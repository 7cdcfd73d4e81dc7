"""``shimmy bench-load``: its options, and the way from them to a report."""

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
    span,
    tell,
)
from shimmy_plugins.commands.bench.servers import PASSED_ON


@settings_options(*PASSED_ON, "models_dir")
def command(
    ctx: typer.Context,
    model: ModelName = None,
    shape: ShapeName = None,
    quant: QuantName = "Q4_0",
    clients: Annotated[int, typer.Option(min=2, help="Clients that ask at the same time.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Requests of all clients together.")] = 48,
    prompt_tokens: Annotated[str, typer.Option(help="Lengths of prompts, from-to.")] = "16-1500",
    answer_tokens: Annotated[str, typer.Option(help="Lengths of answers, from-to.")] = "8-96",
    seed: Annotated[int, typer.Option(help="Another seed makes other requests.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, each of all requests.")] = 3,
    max_foreign: Annotated[
        float, typer.Option(min=0, max=100, help="Drop rounds during which others used more CPU, in %.")
    ] = 5.0,
    wait: WaitInAll = 30.0,
    vs: ServerPeer = None,
    peer_kv_type: PeerKvType = None,
    json: AsJson = False,
) -> None:
    """Measure a server of this model under load, from outside."""
    settings, plugins = bootstrap(ctx)
    # Only here: the engine's modules are for those who measure.
    from shimmy_plugins.commands.bench.load.report import LoadReport
    from shimmy_plugins.commands.bench.load.run import run
    from shimmy_plugins.commands.bench.load.workload import Load, questions, streams
    from shimmy_plugins.commands.bench.prompts import text_encoder
    from shimmy_plugins.commands.bench.samples import Rules
    from shimmy_plugins.commands.bench.server_choice import PeerOptions, launches

    load = Load(
        clients,
        requests,
        span("--prompt-tokens", prompt_tokens),
        span("--answer-tokens", answer_tokens),
        seed,
    )
    path = model_file(model, shape, quant, settings, plugins)
    servers = launches(path, settings, PeerOptions(vs, peer_kv_type, load.context, clients))
    encode = text_encoder(path, plugins)
    rules = Rules(rounds, 0, max_foreign / 100, wait)
    outcome = run(servers, questions(load, encode), streams(load, encode), clients, rules, tell)
    report = LoadReport(path, load, rules, outcome, ("shimmy", *sys.argv[1:]))
    show(report, json=json)
