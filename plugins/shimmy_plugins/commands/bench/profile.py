"""``shimmy bench --profile``: which kernel of a step takes how long, alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from shimmy.cli.output import print_facts, print_json, print_table
from shimmy.engine.load import Loaded
from shimmy.engine.plan import KernelTime, Plan, Profile, ProfiledPlan
from shimmy.engine.protocol import Ready
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError
from shimmy.graph.batch import Batch
from shimmy_plugins.commands.bench.engine_runner import load_for
from shimmy_plugins.commands.bench.workload import Case, Prompter

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings
    from shimmy_plugins.commands.bench.run import Request

_HEADERS = ("kernel", "calls", "each \N{MICRO SIGN}s", "all ms", "share", "GB/s", "Gop/s")


@dataclass(frozen=True, slots=True)
class Step:
    """A profiled step."""

    case: Case
    rows: int
    profile: Profile

    @property
    def label(self) -> str:
        return f"{self.case.test}, {self.rows} rows, depth {self.case.depth}"


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """The kernels of a step for each case."""

    model: Path
    ready: Ready
    steps: Sequence[Step]

    def print_tables(self) -> None:
        """A table for each step; the longest in all first."""
        ready = self.ready
        print_facts(
            [
                ("model", self.model.stem),
                ("engine", f"{ready.backend}, {ready.precision}, KV {ready.kv_type}: {ready.description}"),
            ]
        )
        for step in self.steps:
            typer.echo(f"\n{step.label}; memory reads {step.profile.bytes_per_second / 1e9:.4g} GB/s")
            print_table(_HEADERS, list(_rows(step.profile)))

    def print_json(self) -> None:
        """One object with every kernel in order; times in seconds."""
        print_json(
            {
                "model": str(self.model),
                "engine": {"backend": self.ready.backend, "precision": self.ready.precision},
                "steps": [_as_json(step) for step in self.steps],
            }
        )

    def notes(self) -> list[str]:
        """What a reader should know."""
        return ["Each kernel is timed alone, with a timestamp between it and the next: a step takes less."]


def run_profile(
    request: Request, settings: Settings, plugins: Plugins, tell: Callable[[str], None]
) -> ProfileReport:
    """Load the model and profile a step of each case.

    Raises:
        ConfigError: the engine does not tell times of its kernels; or there is nothing to do.
        ShimmyError: the model cannot be loaded or run.
    """
    if not request.cases:
        raise ConfigError("nothing to profile: --prompt-tokens and --generate are both 0.")
    tell(f"loading {request.model.name}")
    loaded = load_for(request.model, EngineSettings.of(settings), plugins, request.cases)
    with closing(loaded.engine):
        # A step holds one prompt, whatever the batch.
        first = request.cases[0].batch
        cases = [case for case in request.cases if case.test == "decode" or case.batch == first]
        steps = [_profiled(loaded, case, loaded.engine.step_tokens, tell) for case in cases]
    return ProfileReport(request.model, loaded.ready, steps)


def _profiled(loaded: Loaded, case: Case, step_tokens: int, tell: Callable[[str], None]) -> Step:
    plan = loaded.engine.plan
    if not isinstance(plan, ProfiledPlan):
        raise ConfigError(
            f"the engine {loaded.ready.backend!r} does not tell times of its kernels.",
            hint="Set engine_backend to 'wgpu', or leave --profile out.",
            param="--profile",
        )
    tell(f"{case.test}, batch {case.batch}, depth {case.depth}")
    tokens = Prompter(loaded.ready.vocabulary).draw(1, max(case.batch, case.tokens))[0]
    batch = step_of(plan, case, tokens, step_tokens)
    plan.reserve(int(batch.block_tables.max()) + 1)
    found = plan.profile(batch)
    plan.reserve(0)
    return Step(case, len(batch.tokens), found)


def step_of(plan: Plan, case: Case, tokens: Sequence[int], step_tokens: int) -> Batch:
    """A step as it occurs in a case: a token of each sequence, or as much of one prompt as a step takes."""
    generated = case.batch if case.test == "decode" else 0
    rows = generated or min(case.tokens, step_tokens)
    positions = np.full(rows, case.depth) if generated else np.arange(case.depth, case.depth + rows)
    blocks = -(-(int(positions[-1]) + 1) // plan.block_tokens)
    sequences = generated or 1
    return Batch(
        tokens=np.array(tokens[:rows], np.int32),
        positions=positions.astype(np.int32),
        slots=(np.arange(rows) if generated else np.zeros(rows)).astype(np.int32),
        block_tables=np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks),
        outputs=(np.arange(rows) if generated else np.array([rows - 1])).astype(np.int32),
        generated=generated,
    )


def _rows(profile: Profile) -> Iterator[tuple[str, ...]]:
    """A row for each kernel, all its calls together, and one for their sum."""
    kernels: dict[str, list[KernelTime]] = {}
    for time in profile.kernels:
        kernels.setdefault(time.kernel, []).append(time)
    total = sum(time.seconds for time in profile.kernels)
    for name, times in sorted(kernels.items(), key=lambda item: -_seconds(item[1])):
        yield _row(name, times, total, profile.bytes_per_second)
    yield "all", str(len(profile.kernels)), "", f"{total * 1e3:.3f}", "", "", ""


def _row(name: str, times: Sequence[KernelTime], total: float, ceiling: float) -> tuple[str, ...]:
    seconds = _seconds(times)
    read = [time.bytes for time in times if time.bytes is not None]
    done = [time.operations for time in times if time.operations is not None]
    rate = sum(read) / seconds
    return (
        name,
        str(len(times)),
        f"{seconds / len(times) * 1e6:.1f}",
        f"{seconds * 1e3:.3f}",
        f"{seconds / total:.0%}",
        f"{rate / 1e9:.1f} ({rate / ceiling:.0%})" if read else "-",
        f"{sum(done) / seconds / 1e9:.1f}" if done else "-",
    )


def _seconds(times: Sequence[KernelTime]) -> float:
    # A timestamp may be too coarse to tell a kernel's end from its start.
    return max(sum(time.seconds for time in times), 1e-9)


def _as_json(step: Step) -> dict[str, Any]:
    return {
        "test": step.case.test,
        "rows": step.rows,
        "depth": step.case.depth,
        "bytes_per_second": step.profile.bytes_per_second,
        "kernels": [asdict(time) for time in step.profile.kernels],
    }
