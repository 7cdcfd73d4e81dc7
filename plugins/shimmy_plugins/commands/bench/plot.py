"""The rows of a report as a figure: tokens per second, with the quartiles."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.errors import ConfigError
from shimmy_plugins.commands.bench.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
#: Of the space between two rows, and inches that a row takes.
_BAR, _ROW_INCHES = 0.4, 1.1


def check_plot(path: Path) -> None:
    """Raise ConfigError if no figure can be drawn, before anything is measured for it."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot is {str(path)!r}; expected a file name in {' or '.join(SUFFIXES)}.")
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "--plot needs the package matplotlib, which is not installed.",
            hint="pip install 'shimmy-llm[bench]'",
        )


def draw(path: Path, title: str, engines: Sequence[str], results: Sequence[Result]) -> None:
    """Write the figure: a group of bars for each row that has samples, a bar for each engine.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    shown = [result for result in results if result.samples.kept]
    figure = Figure(figsize=(3 + _ROW_INCHES * len(shown), 4), layout="constrained")
    axes = figure.subplots()
    for engine, name in enumerate(engines):
        _bars(axes, engine, name, shown)
    rows = [f"{r.case.label}\nbatch {r.case.batch}\ndepth {r.case.depth}" for r in shown]
    axes.set_xticks([row + _BAR * (len(engines) - 1) / 2 for row in range(len(shown))], rows, fontsize=8)
    axes.set_ylabel("tokens per second")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"--plot: {path} cannot be written: {error}.") from None


def _bars(axes: Axes, engine: int, name: str, results: Sequence[Result]) -> None:
    rates = [rate for result in results if (rate := result.tokens_per_second(engine))]
    medians = [rate.median for rate in rates]
    quartiles = [[r.median - r.low for r in rates], [r.high - r.median for r in rates]]
    places = [row + _BAR * engine for row in range(len(rates))]
    axes.bar(places, medians, _BAR, yerr=quartiles, capsize=3, label=name)
