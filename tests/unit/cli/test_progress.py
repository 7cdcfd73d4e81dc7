"""The bar that shows how far a load is: where, and where not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from shimmy.cli.progress import LoadingBar, LoadingLog, loading_bar

NAME = "tiny [bold]model"


@pytest.fixture
def standard_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``with standard_error() as shown:`` standard error is a terminal; ``shown()`` is what it got."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("shimmy.cli.progress.PATIENCE", 0.0)

    @contextmanager
    def opened(*, terminal: bool = True) -> Iterator:
        # Not before: the stream of the test is not that of its fixtures.
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
        yield lambda: capsys.readouterr().err

    return opened


def load(**options: bool) -> None:
    with loading_bar(NAME, **options) as bar:
        bar.update("weights", 1, 4)
        bar.update("kernels", 4, 4)


def test_a_terminal_shows_name_phase_and_share(standard_error):
    with standard_error() as shown:
        load()
        text = shown()
    assert f"{NAME}: weights" in text
    assert f"{NAME}: kernels" in text
    assert "100 %" in text
    assert "\x1b[38;" in text


def test_without_colours_if_so_wanted(standard_error, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with standard_error() as shown:
        load()
        text = shown()
    assert f"{NAME}: weights" in text
    assert "\x1b[38;" not in text


def test_nothing_on_a_dumb_terminal(standard_error, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with standard_error() as shown:
        load()
        assert shown() == ""


def test_nothing_where_nobody_looks(standard_error):
    with standard_error(terminal=False) as shown:
        load()
        assert shown() == ""


def test_nothing_where_only_data_is_wanted(standard_error):
    with standard_error() as shown:
        load(quiet=True)
        assert shown() == ""


def test_nothing_for_what_is_over_soon(standard_error):
    bar = LoadingBar(NAME, patience=3600)
    with standard_error() as shown:
        bar.update("weights", 1, 2)
        bar.close()
        assert shown() == ""


def test_a_closed_bar_stays_closed(standard_error):
    bar = LoadingBar(NAME, patience=0)
    with standard_error() as shown:
        bar.close()
        bar.update("weights", 1, 2)
        assert shown() == ""


def test_a_failure_removes_the_bar(standard_error):
    with standard_error() as shown:
        with suppress(ValueError), loading_bar(NAME) as bar:
            bar.update("weights", 1, 2)
            raise ValueError
        assert shown().endswith("\x1b[2K")


def test_a_log_says_once_what_is_waited_for(caplog):
    log = LoadingLog(NAME, patience=0)
    with caplog.at_level("INFO"):
        for done in range(2):
            log.update("compiling", done, 2)
        log.update("weights", 1, 2)
        log.close()
        log.update("reading", 1, 2)
    assert [record.getMessage() for record in caplog.records] == [f"{NAME}: compiling", f"{NAME}: weights"]


def test_a_log_is_silent_about_what_is_over_soon(caplog):
    with caplog.at_level("INFO"):
        LoadingLog(NAME, patience=3600).update("compiling", 1, 2)
    assert not caplog.records
