"""Options made from settings, and output for people and pipes."""

import logging
import sys
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from shimmy.cli.common import bootstrap, settings_options
from shimmy.cli.output import plain_lines, print_table, readable_count, readable_size
from shimmy.plugins import PluginChoice, load_plugins


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @settings_options("port", "max_ctx", "model_paths", "strict_plugins")
    def command(ctx: typer.Context, loud: bool = False) -> None:
        """Show what came through."""
        settings, _ = bootstrap(ctx)
        typer.echo(
            f"{settings.port} {settings.max_ctx} {len(settings.model_paths)} {settings.origin('port')} {loud}"
        )

    return app


def test_flags_reach_the_settings(app):
    result = CliRunner().invoke(app, ["--port", "80", "--model-paths", "a", "--model-paths", "b", "--loud"])
    assert result.output == "80 None 2 --port True\n"


def test_help_tells_range_and_default(app):
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "Show what came through." in text
    assert "--max-ctx VALUE" in text
    assert "a whole number from 512 to 131072 or auto; default: auto" in text
    assert "--strict-plugins / --no-strict-plugins" in text


def test_a_wrong_flag_is_named(app):
    error = CliRunner().invoke(app, ["--max-ctx", "5"]).exception
    assert "max_ctx is '5' (from --max-ctx)" in str(error)


def test_plugins_log_from_the_level_that_is_set(app, monkeypatch):
    stranger = ModuleType("stranger.plugin")
    loaded = load_plugins(PluginChoice(enabled=()), extra=[stranger])
    monkeypatch.setattr("shimmy.cli.common.load_plugins", lambda _choice: loaded)
    monkeypatch.setenv("SHIMMY_LOG_LEVEL", "debug")
    CliRunner().invoke(app, [])
    assert logging.getLogger("stranger.plugin.deep").isEnabledFor(logging.DEBUG)


def test_plain_tables_are_aligned():
    assert plain_lines(("name", "size"), [("tiny", "1"), ("enormous", "22")]) == [
        "NAME      SIZE",
        "tiny      1",
        "enormous  22",
    ]


def test_people_get_a_rich_table_with_brackets_intact(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(("name",), [("[bold]",)])
    assert "[bold]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (98362432, "93.8 MiB"), (5 * 2**30, "5.0 GiB")]
)
def test_sizes(size: int, text: str):
    assert readable_size(size) == text


@pytest.mark.parametrize(
    ("count", "text"), [(2818, "2.82K"), (134515008, "135M"), (999999, "1M"), (1_100_000_000, "1.1B")]
)
def test_counts(count: int, text: str):
    assert readable_count(count) == text
