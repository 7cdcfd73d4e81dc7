"""How far a load is: a bar on standard error where a person looks on, elsewhere lines in a server's log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shimmy.cli.output import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

log = logging.getLogger(__name__)

#: What takes less than this many seconds needs no bar.
PATIENCE = 0.4


class LoadingBar:
    """The phases of one load, one after the other on one line, which is gone when it is closed."""

    def __init__(self, name: str, patience: float = PATIENCE) -> None:
        self._name = name
        self._from = time.monotonic() + patience
        self._shown: tuple[RichProgress, TaskID] | None = None

    def update(self, phase: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of ``phase`` are over."""
        if time.monotonic() >= self._from:
            text = f"{self._name}: {phase}"
            bar, task = self._shown or self._show(text)
            bar.update(task, description=text, completed=done, total=total)

    def close(self) -> None:
        """Remove the bar, for good."""
        self._from = float("inf")
        if self._shown:
            self._shown[0].stop()
            self._shown = None

    def _show(self, text: str) -> tuple[RichProgress, TaskID]:
        # 100 ms of import, worth it only where a person waits.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        # No markup: a model's name is free to hold square brackets.
        description = TextColumn("{task.description}", markup=False)
        columns = (description, BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn())
        bar = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            # What is piped elsewhere must not end up beside the bar.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._shown = bar, bar.add_task(text)
        bar.start()
        return self._shown


class LoadingLog:
    """In the place of a bar where nobody looks on: one line for each phase that people wait for."""

    def __init__(self, name: str, patience: float = PATIENCE) -> None:
        self._name = name
        self._from = time.monotonic() + patience
        self._logged: set[str] = set()

    def update(self, phase: str, _done: int, _total: int) -> None:
        """Log the phase if the load takes long."""
        if time.monotonic() >= self._from and phase not in self._logged:
            self._logged.add(phase)
            log.info("%s: %s", self._name, phase)

    def close(self) -> None:
        """Log no more."""
        self._from = float("inf")


@contextmanager
def loading_bar(name: str, *, quiet: bool = False) -> Iterator[LoadingBar]:
    """A bar for the load of the model ``name``; it never shows if nobody would see it, or ``quiet``."""
    bar = LoadingBar(name, float("inf") if quiet or not is_terminal(sys.stderr) else PATIENCE)
    try:
        yield bar
    finally:
        bar.close()
