"""How long servers took to start, as a table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from shimmy.cli.output import print_facts, print_json, print_table
from shimmy_plugins.commands.bench.machine import subject, subject_json
from shimmy_plugins.commands.bench.samples import Rules, Samples
from shimmy_plugins.commands.bench.start.run import Entrant, Start
from shimmy_plugins.commands.bench.summary import Summary

_HEADERS = ("server", "health s", "iqr", "first token s", "iqr", "starts", "dropped")


@dataclass(frozen=True, slots=True)
class StartReport:
    """Everything that a reader of the numbers needs to know."""

    model: Path
    rules: Rules
    entrants: Sequence[Entrant]
    samples: Samples[Start]
    command: Sequence[str]

    def print_tables(self) -> None:
        """A row for each entrant."""
        descriptions = {each.launch.name: each.launch.description for each in self.entrants}
        print_facts([*subject(self.model), *descriptions.items()])
        typer.echo()
        print_table(_HEADERS, [self._row(number) for number in range(len(self.entrants))])

    def print_json(self) -> None:
        """One object; times in seconds."""
        print_json(
            {
                **subject_json(self.model, self.command),
                "rules": dataclasses.asdict(self.rules),
                "foreign_median": self.samples.foreign,
                "dropped": len(self.samples.dropped),
                "servers": [self._entrant(number) for number in range(len(self.entrants))],
            }
        )

    def notes(self) -> list[str]:
        """What a reader should be warned of."""
        if self.samples.kept:
            return []
        return [
            f"every start was dropped; other programs used {self.samples.foreign:.0%} of the processors, at "
            f"most {self.rules.max_foreign:.0%} is allowed. Wait until they are done, or raise --max-foreign."
        ]

    def summary(self, number: int, value: Callable[[Start], float]) -> Summary | None:
        """Of a value of one entrant's starts."""
        return self.samples.summary(lambda taken: value(taken[number]))

    def _row(self, number: int) -> tuple[str, ...]:
        found = [self.summary(number, value) for value in (_healthy, _first_token)]
        columns = [
            text
            for s in found
            for text in ((f"{s.median:.2f}", f"{s.low:.2f}-{s.high:.2f}") if s else ("-", "-"))
        ]
        kept, dropped = len(self.samples.kept), len(self.samples.dropped)
        return (self.entrants[number].name, *columns, str(kept), str(dropped))

    def _entrant(self, number: int) -> dict[str, Any]:
        entrant = self.entrants[number]
        return {
            "name": entrant.name,
            "description": entrant.launch.description,
            "cold": entrant.cold,
            "healthy_seconds": [taken[number].healthy for taken in self.samples.kept],
            "first_token_seconds": [taken[number].first_token for taken in self.samples.kept],
        }


def _healthy(start: Start) -> float:
    return start.healthy


def _first_token(start: Start) -> float:
    return start.first_token
