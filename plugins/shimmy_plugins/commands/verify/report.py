"""What was found, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import typer

from shimmy.cli.output import print_facts, print_json, print_table
from shimmy_plugins.commands.verify.check import Check
from shimmy_plugins.commands.verify.checks import Verdict

#: Failures that are shown by name.
_SHOWN = 20

_WHAT = {
    "blocks": "blocks",
    "weights": "weights",
    "ops": "op",
    "far": "op, far on",
    "layers": "layers",
    "logits": "logits",
    "decode": "decode = prompt",
    "references": "references",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A verdict, and on what."""

    model: str
    path: str
    backend: str
    seconds: float
    verdict: Verdict
    note: str | None = None
    """What there is to say about settings that change nothing."""

    def print_tables(self) -> None:
        """A row for each kind of comparison, then whatever failed."""
        facts, verdict = self.verdict.facts, self.verdict
        print_facts(
            [
                ("model", self.model),
                ("engine", f"{self.backend}, {facts.precision}, KV {facts.kv_type}: {facts.description}"),
                *([("note", self.note)] if self.note else []),
                ("took", f"{self.seconds:.1f} s"),
            ]
        )
        typer.echo()
        headers = ("what", "of", "phase", "checks", "numbers", "largest error", "at", "allowed", "result")
        print_table(headers, [_row(checks) for checks in _grouped(verdict.checks)])
        if verdict.failed:
            typer.echo()
            rows = [
                (_WHAT[check.kind], check.label, check.phase, f"{check.error:.2g}", f"{check.limit:.2g}")
                for check in verdict.failed[:_SHOWN]
            ]
            print_table(("failed", "at", "phase", "error", "allowed"), rows)
        typer.echo(f"\n{self._summary()}")

    def print_json(self) -> None:
        """One object with all comparisons; an error that is no number is null."""
        verdict = self.verdict
        print_json(
            {
                "model": {"name": self.model, "path": self.path},
                "engine": {"backend": self.backend, **asdict(verdict.facts), "note": self.note},
                "seconds": self.seconds,
                "passed": not verdict.failed,
                "failed": [check.label for check in verdict.failed],
                "checks": [_as_json(check) for check in verdict.checks],
            }
        )

    def _summary(self) -> str:
        total, failed = len(self.verdict.checks), len(self.verdict.failed)
        if failed:
            more = f", {failed - _SHOWN} more than shown" if failed > _SHOWN else ""
            return f"FAILED: {failed} of {total} checks{more}."
        return f"ok: {total} checks."


def _grouped(checks: Sequence[Check]) -> list[list[Check]]:
    """Checks of one kind, of one group, in one phase, in the order in which they first come."""
    kinds = list(_WHAT)
    groups: dict[tuple[int, str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((kinds.index(check.kind), check.group, check.phase), []).append(check)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _row(checks: Sequence[Check]) -> tuple[str, ...]:
    worst = max(checks, key=lambda check: check.strain)
    return (
        _WHAT[worst.kind],
        worst.group,
        worst.phase,
        str(len(checks)),
        str(sum(check.elements for check in checks)),
        f"{worst.error:.2g}",
        worst.label if worst.error else "",
        f"{worst.limit:.2g}",
        "ok" if worst.passed else "FAILED",
    )


def _as_json(check: Check) -> dict[str, Any]:
    error = check.error if isfinite(check.error) else None
    return asdict(check) | {"error": error, "passed": check.passed}
