"""``shimmy bench``: its options, and the way from them to a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shimmy.cli.common import bootstrap, settings_options
from shimmy.errors import ConfigError

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings


@settings_options(
    "engine_backend",
    "precision",
    "threads",
    "instructions",
    "kv_type",
    "kv_memory",
    "step_tokens",
    "models_dir",
)
def command(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="A model of `shimmy list`, or a GGUF file.")] = None,
    shape: Annotated[str | None, typer.Option(help="Random weights of a known shape instead.")] = None,
    quant: Annotated[str, typer.Option(help="Their type: Q4_0, Q8_0, Q4_K_M, ….")] = "Q4_0",
    prompt_tokens: Annotated[str, typer.Option(help="Lengths of prompts; 0: none.")] = "512",
    generate: Annotated[str, typer.Option(help="Numbers of generated tokens; 0: none.")] = "128",
    batch: Annotated[str, typer.Option(help="Numbers of sequences at a time.")] = "1",
    depth: Annotated[str, typer.Option(help="Tokens in the context before generating.")] = "0",
    repetitions: Annotated[
        int | None, typer.Option(min=1, help="Samples that count; default: 10, with --vs 15 pairs.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Samples before those.")] = 1,
    max_foreign: Annotated[
        float, typer.Option(min=0, max=100, help="Drop samples during which others used more CPU, in %.")
    ] = 5.0,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds per row to wait for others to finish, in all.")
    ] = 30.0,
    vs: Annotated[str | None, typer.Option(help="Measure in turns with llama.cpp or ik_llama.cpp.")] = None,
    peer_kv_type: Annotated[str, typer.Option(help="The other engine's KV cache: f16 or f32.")] = "f16",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast a model runs here."""
    settings, plugins = bootstrap(ctx)
    # Only here: NumPy and LLVM are for those who measure.
    from shimmy_plugins.commands.bench.run import Request, run
    from shimmy_plugins.commands.bench.samples import Rules
    from shimmy_plugins.commands.bench.workload import cases

    request = Request(
        model=_model_file(model, shape, quant, settings, plugins),
        cases=cases(
            numbers("--prompt-tokens", prompt_tokens, least=0),
            numbers("--generate", generate, least=0),
            numbers("--batch", batch, least=1),
            numbers("--depth", depth, least=0),
        ),
        rules=Rules(repetitions or (15 if vs else 10), warmup, max_foreign / 100, wait),
        peer=vs,
        peer_kv_type=peer_kv_type,
        command=("shimmy", *sys.argv[1:]),
    )
    report = run(request, settings, plugins, _tell)
    if json:
        report.print_json()
    else:
        report.print_tables()
        for note in report.notes():
            _tell(note)


def numbers(option: str, text: str, least: int) -> list[int]:
    """``1,8`` as numbers. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise ConfigError(
            f"{option} is {text!r}; expected whole numbers from {least}, like 1,8.", param=option
        )
    return [int(part) for part in parts]


def _model_file(
    model: str | None, shape: str | None, quant: str, settings: Settings, plugins: Plugins
) -> Path:
    """The file to measure: the one named, or one of random weights."""
    if (model is None) == (shape is None):
        given = "neither" if model is None else "both"
        raise ConfigError(
            f"expected a model or --shape, found {given}.",
            hint="Name a model of `shimmy list`, or try --shape tinyllama-1.1b.",
        )
    if shape is not None:
        from shimmy_plugins.commands.bench.random_model import cached_model
        from shimmy_plugins.commands.bench.shapes import shape_named

        return cached_model(shape_named(shape), quant.upper(), plugins.quant_types)
    assert model is not None
    if Path(model).is_file():
        return Path(model)
    from shimmy.discovery.catalog import Catalog

    return Catalog(settings, plugins).get(model).path


def _tell(text: str) -> None:
    """Progress and advice go beside the result, not into it."""
    typer.echo(text, err=True)
