"""What was found, as tables for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from shimmy.cli.output import print_facts, print_json, print_table, readable_size
from shimmy.engine.protocol import Ready
from shimmy_plugins.commands.bench.ceilings import Ceilings
from shimmy_plugins.commands.bench.costs import Costs
from shimmy_plugins.commands.bench.machine import describe_machine, subject, subject_json
from shimmy_plugins.commands.bench.plot import draw
from shimmy_plugins.commands.bench.results import Result
from shimmy_plugins.commands.bench.samples import Rules
from shimmy_plugins.commands.bench.summary import Summary


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a reader of the numbers needs to know."""

    model: Path
    ready: Ready
    threads: int
    load_seconds: float
    costs: Costs
    ceilings: Ceilings
    rules: Rules
    results: Sequence[Result]
    command: Sequence[str]
    peer: str | None = None
    """Description of the engine compared with."""

    def print_tables(self) -> None:
        """The tables, with what they were measured on above them."""
        print_facts(self._facts())
        typer.echo()
        print_table(_HEADERS, [self._row(result) for result in self.results])
        if self.peer:
            typer.echo()
            headers = ("test", "batch", "depth", "peer tok/s", "ratio", "iqr", "pairs", "dropped")
            print_table(headers, [_peer_row(result) for result in self.results])

    def print_json(self) -> None:
        """One object; rates are per second, times in seconds, sizes in bytes."""
        print_json(
            {
                **subject_json(self.model, self.command),
                "engine": self._engine(),
                "ceilings": dataclasses.asdict(self.ceilings),
                "rules": dataclasses.asdict(self.rules),
                "peer": self.peer,
                "results": [self._result(result) for result in self.results],
            }
        )

    def draw(self, path: Path) -> None:
        """Write the rows as a figure. Raises ConfigError if that is not possible."""
        engines = [f"shimmy, {self.ready.precision}", *([self.peer.partition(";")[0]] if self.peer else [])]
        draw(path, f"{self.model.stem}, {describe_machine()['processor']}", engines, self.results)

    def notes(self) -> list[str]:
        """What a reader should be warned of."""
        empty = [result for result in self.results if not result.samples.kept]
        return [
            f"{result.case.label}, batch {result.case.batch}, depth {result.case.depth}: every sample was "
            f"dropped; other programs used {result.samples.foreign:.0%} of the processors, at most "
            f"{self.rules.max_foreign:.0%} is allowed. Wait until they are done, or raise --max-foreign."
            for result in empty
        ]

    def _facts(self) -> list[tuple[str, str]]:
        ready = self.ready
        facts = [
            *subject(self.model),
            ("engine", f"{ready.backend}, {ready.precision}, KV {ready.kv_type}: {ready.description}"),
            ("memory", memory_text(ready)),
            ("loaded in", f"{self.load_seconds:.2f} s"),
        ]
        if ready.device_bytes is None:
            facts.append(("ceilings", ", ".join(_ceilings(self.ceilings))))
        return [*facts, ("against", self.peer)] if self.peer else facts

    def _row(self, result: Result) -> tuple[str, ...]:
        case, rate, first = result.case, result.tokens_per_second(), result.first_token()
        return (
            case.label,
            str(case.batch),
            str(case.depth),
            _number(rate),
            _range(rate),
            _number(first, 1000),
            _achieved(self.achieved_bytes(result), self._share_of(self.ceilings.bytes_per_second)),
            _achieved(self.achieved_operations(result), self._share_of(self._peak)),
            str(len(result.samples.kept)),
            str(len(result.samples.dropped)),
        )

    def achieved_bytes(self, result: Result) -> float | None:
        """Bytes per second that a decode must have read; None for a prefill, or without samples."""
        return _per_second(self.costs.bytes_read(result.case), result)

    @property
    def _peak(self) -> float:
        """Operations per second at most, of the arithmetic in use."""
        return self.ceilings.operations_per_second(self.ready.precision)

    def _share_of(self, ceiling: float) -> float | None:
        """What a rate is compared with: ceilings are the processor's, so nothing where a GPU computes too."""
        return ceiling if self.ready.device_bytes is None else None

    def achieved_operations(self, result: Result) -> float | None:
        """Operations per second; None without samples."""
        return _per_second(self.costs.operations(result.case), result)

    def _engine(self) -> dict[str, Any]:
        ready = self.ready
        return {
            "backend": ready.backend,
            "precision": ready.precision,
            "description": ready.description,
            "threads": self.threads,
            "weight_bytes": ready.weight_bytes,
            "host_weight_bytes": ready.host_weight_bytes,
            "device_bytes": ready.device_bytes,
            "kv_type": ready.kv_type,
            "kv_bytes_per_token": ready.kv_bytes_per_token,
            "load_seconds": self.load_seconds,
        }

    def _result(self, result: Result) -> dict[str, Any]:
        found: dict[str, Any] = dataclasses.asdict(result.case) | {
            "tokens_per_second": _as_dict(result.tokens_per_second()),
            "first_token_seconds": _as_dict(result.first_token()),
            "achieved_bytes_per_second": self.achieved_bytes(result),
            "achieved_operations_per_second": self.achieved_operations(result),
            "foreign_median": result.samples.foreign,
            "kept": [[timed.seconds for timed in taken] for taken in result.samples.kept],
            "dropped": [[timed.seconds for timed in taken] for taken in result.samples.dropped],
        }
        if self.peer:
            found["peer_tokens_per_second"] = _as_dict(result.tokens_per_second(1))
            found["ratio"] = _as_dict(result.ratio())
        return found


_HEADERS = ("test", "batch", "depth", "tok/s", "iqr", "ttft ms", "GB/s", "Gop/s", "samples", "dropped")


def memory_text(ready: Ready) -> str:
    """Where the weights lie, and what the model takes of a GPU."""
    text = f"{readable_size(ready.weight_bytes)} of weights"
    if ready.host_weight_bytes:
        text += f", {readable_size(ready.host_weight_bytes)} of them in the machine's memory"
    if ready.device_bytes is not None:
        text += f"; {readable_size(ready.device_bytes)} of the GPU taken before the KV cache grows"
    return text


def _ceilings(found: Ceilings) -> list[str]:
    parts = [f"{found.bytes_per_second / 1e9:.1f} GB/s", f"{found.flops_per_second / 1e9:.0f} GFLOP/s in F32"]
    if found.int8_ops_per_second is not None:
        parts.append(f"{found.int8_ops_per_second / 1e9:.0f} Gop/s in int8")
    return parts


def _peer_row(result: Result) -> tuple[str, ...]:
    case, ratio = result.case, result.ratio()
    return (
        case.label,
        str(case.batch),
        str(case.depth),
        _number(result.tokens_per_second(1)),
        f"{ratio.median:.2f}" if ratio else "-",
        f"{ratio.low:.2f}-{ratio.high:.2f}" if ratio else "-",
        str(len(result.samples.kept)),
        str(len(result.samples.dropped)),
    )


def _per_second(amount: float | None, result: Result) -> float | None:
    if amount is None:
        return None
    rate = result.samples.summary(lambda taken: amount / taken[0].seconds)
    return rate.median if rate else None


def _number(summary: Summary | None, factor: float = 1.0) -> str:
    return f"{summary.median * factor:.1f}" if summary else "-"


def _range(summary: Summary | None) -> str:
    return f"{summary.low:.1f}-{summary.high:.1f}" if summary else "-"


def _achieved(rate: float | None, ceiling: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate / 1e9:.1f}" + (f" ({rate / ceiling:.0%})" if ceiling else "")


def _as_dict(summary: Summary | None) -> dict[str, float] | None:
    return dataclasses.asdict(summary) if summary else None
