"""``shimmy bench``: its options, and the way from them to a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shimmy.cli.common import COMPUTING, OFFLOADING, AsJson, bootstrap, settings_options
from shimmy.errors import ConfigError
from shimmy_plugins.commands.bench.options import (
    ModelName,
    PeerKvType,
    QuantName,
    ShapeName,
    model_file,
    numbers,
    show,
    tell,
)

#: What the command ends with when a row is slower than the baseline's.
SLOWER = 1


@settings_options(*COMPUTING, *OFFLOADING, "kv_type", "kv_memory", "step_tokens", "models_dir")
def command(
    ctx: typer.Context,
    model: ModelName = None,
    shape: ShapeName = None,
    quant: QuantName = "Q4_0",
    prompt_tokens: Annotated[str, typer.Option(help="Lengths of prompts; 0: none.")] = "512",
    generate: Annotated[str, typer.Option(help="Numbers of generated tokens; 0: none.")] = "128",
    batch: Annotated[str, typer.Option(help="Numbers of sequences at a time.")] = "1",
    depth: Annotated[str, typer.Option(help="Tokens in the context before generating.")] = "0",
    repetitions: Annotated[
        int | None, typer.Option(min=1, help="Samples that count; default: 10, with --vs 15 pairs.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Samples before those.")] = 1,
    warm: Annotated[
        float, typer.Option(min=0, help="Seconds of such samples at least; a GPU wants 0.5.")
    ] = 0.0,
    max_foreign: Annotated[
        float, typer.Option(min=0, max=100, help="Drop samples during which others used more CPU, in %.")
    ] = 5.0,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds per row to wait for others to finish, in all.")
    ] = 30.0,
    vs: Annotated[str | None, typer.Option(help="Measure in turns with llama.cpp, ik_llama.cpp, ….")] = None,
    peer_kv_type: PeerKvType = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time each kernel of one step instead; of engines on GPUs.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the rows into this .svg or .png as well.")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Fail if rows are slower than in this JSON of a report."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=100, help="By how much they may be slower, in %.")
    ] = 10.0,
    json: AsJson = False,
) -> None:
    """Measure how fast a model runs here."""
    settings, plugins = bootstrap(ctx)
    # Only here: NumPy and LLVM are for those who measure.
    from shimmy_plugins.commands.bench.baseline import changes, read_baseline
    from shimmy_plugins.commands.bench.plot import check_plot
    from shimmy_plugins.commands.bench.profile import run_profile
    from shimmy_plugins.commands.bench.run import Request, run
    from shimmy_plugins.commands.bench.samples import Rules
    from shimmy_plugins.commands.bench.workload import cases

    if profile and (other := "--vs" if vs else "--plot" if plot else "--baseline" if baseline else None):
        raise ConfigError(f"--profile takes no {other}.", param="--profile")
    if plot:
        check_plot(plot)
    request = Request(
        model=model_file(model, shape, quant, settings, plugins),
        cases=cases(
            numbers("--prompt-tokens", prompt_tokens, least=0),
            numbers("--generate", generate, least=0),
            numbers("--batch", batch, least=1),
            numbers("--depth", depth, least=0),
        ),
        rules=Rules(repetitions or (15 if vs else 10), warmup, max_foreign / 100, wait, warm),
        peer=vs,
        peer_kv_type=peer_kv_type,
        command=("shimmy", *sys.argv[1:]),
    )
    on_record = read_baseline(baseline, request.cases) if baseline else None
    if profile:
        show(run_profile(request, settings, plugins, tell), json=json)
        return
    report = run(request, settings, plugins, tell)
    if plot:
        report.draw(plot)
    show(report, json=json)
    rows = changes(report.results, on_record, tolerance / 100) if on_record else []
    for row in rows:
        tell(str(row))
    if not all(row.passed for row in rows):
        raise typer.Exit(SLOWER)
