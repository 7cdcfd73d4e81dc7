"""What the commands share: which model, numbers on the command line, what is told meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeAlias

import typer

from shimmy.errors import ConfigError

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings

ModelName: TypeAlias = Annotated[str | None, typer.Argument(help="A model of `shimmy list`, or a GGUF file.")]
ShapeName: TypeAlias = Annotated[str | None, typer.Option(help="Random weights of a known shape instead.")]
QuantName: TypeAlias = Annotated[str, typer.Option(help="Their type: Q4_0, Q8_0, Q4_K_M, ….")]
PeerKvType: TypeAlias = Annotated[str | None, typer.Option(help="The other's KV cache; default: our own.")]
#: Of the commands that start servers.
ServerPeer: TypeAlias = Annotated[str | None, typer.Option(help="Measure in turns with llama.cpp.")]
WaitInAll: TypeAlias = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for others to finish, in all.")
]


class Report(Protocol):
    """What was measured."""

    def print_json(self) -> None: ...

    def print_tables(self) -> None: ...

    def notes(self) -> list[str]: ...


def numbers(option: str, text: str, least: int) -> list[int]:
    """``1,8`` as numbers. Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise ConfigError(
            f"{option} is {text!r}; expected whole numbers from {least}, like 1,8.", param=option
        )
    return [int(part) for part in parts]


def span(option: str, text: str) -> tuple[int, int]:
    """``16-1500`` as its ends, ``16`` as both. Raises ConfigError."""
    first, separator, last = text.partition("-")
    ends = [part.strip() for part in (first, last if separator else first)]
    if not all(part.isdecimal() and int(part) >= 1 for part in ends) or int(ends[0]) > int(ends[1]):
        raise ConfigError(f"{option} is {text!r}; expected a range from 1, like 16-1500.", param=option)
    return int(ends[0]), int(ends[1])


def model_file(
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


def tell(text: str) -> None:
    """Progress and advice go beside the result, not into it."""
    typer.echo(text, err=True)


def show(report: Report, *, json: bool) -> None:
    """Print a report, and beside it what to know about it."""
    if json:
        report.print_json()
    else:
        report.print_tables()
    for note in report.notes():
        tell(note)
