"""What was found under load, as a table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from shimmy.cli.output import print_facts, print_json, print_table
from shimmy_plugins.commands.bench.clients import Answer
from shimmy_plugins.commands.bench.load.run import Outcome, Round
from shimmy_plugins.commands.bench.load.workload import Load
from shimmy_plugins.commands.bench.machine import subject, subject_json
from shimmy_plugins.commands.bench.samples import Rules
from shimmy_plugins.commands.bench.summary import Summary, quantile

_HEADERS = (
    *("server", "tok/s", "iqr", "ttft p50", "p99", "between p50", "p99"),
    *("one stream", "streams", "differ", "errors", "rounds", "dropped"),
)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Everything that a reader of the numbers needs to know. Servers by their place in the outcome."""

    model: Path
    load: Load
    rules: Rules
    outcome: Outcome
    command: Sequence[str]

    def print_tables(self) -> None:
        """A row for each server, and the ratios of the first to the others."""
        load = self.load
        facts = [
            *subject(self.model),
            *((launch.name, launch.description) for launch in self.outcome.launches),
            (
                "load",
                f"{load.clients} clients, {load.requests} requests, seed {load.seed}; prompts of "
                f"{load.prompts[0]}-{load.prompts[1]} tokens, answers of {load.answers[0]}-{load.answers[1]}",
            ),
        ]
        print_facts(facts)
        typer.echo()
        print_table(_HEADERS, [self._row(server) for server in range(len(self.outcome.launches))])
        for server in range(1, len(self.outcome.launches)):
            if ratio := self.ratio(server):
                name = self.outcome.launches[server].name
                typer.echo(
                    f"\noutput, shimmy over {name}: {ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
                )

    def print_json(self) -> None:
        """One object; rates are per second, times in seconds."""
        print_json(
            {
                **subject_json(self.model, self.command),
                "load": dataclasses.asdict(self.load),
                "rules": dataclasses.asdict(self.rules),
                "foreign_median": self.outcome.rounds.foreign,
                "dropped": len(self.outcome.rounds.dropped),
                "servers": [self._server(server) for server in range(len(self.outcome.launches))],
            }
        )

    def notes(self) -> list[str]:
        """What a reader should be warned of."""
        rounds = self.outcome.rounds
        if rounds.kept:
            return []
        return [
            f"every round was dropped; other programs used {rounds.foreign:.0%} of the processors, at most "
            f"{self.rules.max_foreign:.0%} is allowed. Wait until they are done, or raise --max-foreign."
        ]

    def output_rate(self, server: int) -> Summary | None:
        """Generated tokens per second."""
        return self._summary(server, lambda found: found.output_rate)

    def ratio(self, server: int) -> Summary | None:
        """Output of the first over that of another, round by round."""
        return self.outcome.rounds.summary(lambda taken: taken[0].output_rate / taken[server].output_rate)

    def answers(self, server: int) -> list[Answer]:
        """Complete ones of all rounds."""
        return [
            each for taken in self.outcome.rounds.kept for each in taken[server].answers if not each.error
        ]

    def errors(self, server: int) -> list[str]:
        """Why answers are incomplete, those given alone included."""
        given = [each for taken in self.outcome.rounds.kept for each in taken[server].answers]
        return [each.error for each in (*given, *self.outcome.alone[server]) if each.error]

    def differing(self, server: int) -> int:
        """Complete answers that are not the one given to the same question alone."""
        alone = self.outcome.alone[server]
        return sum(
            not (each.error or single.error) and each.text != single.text
            for taken in self.outcome.rounds.kept
            for each, single in zip(taken[server].answers, alone, strict=True)
        )

    def _summary(self, server: int, value: Callable[[Round], float]) -> Summary | None:
        return self.outcome.rounds.summary(lambda taken: value(taken[server]))

    def _row(self, server: int) -> tuple[str, ...]:
        answers, rate, rounds = self.answers(server), self.output_rate(server), self.outcome.rounds
        firsts = [each.first for each in answers]
        gaps = [gap for each in answers for gap in each.gaps]
        one = self._summary(server, lambda found: found.one_stream)
        together = self._summary(server, lambda found: found.all_streams)
        return (
            self.outcome.launches[server].name,
            f"{rate.median:.1f}" if rate else "-",
            f"{rate.low:.1f}-{rate.high:.1f}" if rate else "-",
            *(_seconds(values, share) for values in (firsts, gaps) for share in (0.5, 0.99)),
            f"{one.median:.1f}" if one else "-",
            f"{together.median:.1f} ({together.median / one.median:.1f}x)" if one and together else "-",
            f"{self.differing(server)} of {len(answers)}",
            str(len(self.errors(server))),
            str(len(rounds.kept)),
            str(len(rounds.dropped)),
        )

    def _server(self, server: int) -> dict[str, Any]:
        launch, answers = self.outcome.launches[server], self.answers(server)
        found: dict[str, Any] = {
            "name": launch.name,
            "description": launch.description,
            "output_tokens_per_second": _as_dict(self.output_rate(server)),
            "first_token_seconds": _percentiles([each.first for each in answers]),
            "between_tokens_seconds": _percentiles([gap for each in answers for gap in each.gaps]),
            "one_stream_tokens_per_second": _as_dict(self._summary(server, lambda found: found.one_stream)),
            "all_streams_tokens_per_second": _as_dict(self._summary(server, lambda found: found.all_streams)),
            "answers": len(answers),
            "differing": self.differing(server),
            "errors": self.errors(server),
        }
        if server:
            found["ratio"] = _as_dict(self.ratio(server))
        return found


def _seconds(values: Sequence[float], share: float) -> str:
    return f"{quantile(sorted(values), share):.3f} s" if values else "-"


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    ordered = sorted(values)
    return {name: quantile(ordered, share) for name, share in _SHARES.items()} if ordered else None


_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


def _as_dict(summary: Summary | None) -> dict[str, float] | None:
    return dataclasses.asdict(summary) if summary else None
