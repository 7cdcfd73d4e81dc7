"""From a request to a report: loads the engine, starts the peer, measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from shimmy.engine.machine import usable_cores
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError
from shimmy.plugins import Plugins
from shimmy.settings import Settings
from shimmy_plugins.commands.bench.ceilings import CeilingProbe
from shimmy_plugins.commands.bench.costs import read_costs
from shimmy_plugins.commands.bench.engine_runner import load_runner
from shimmy_plugins.commands.bench.noise import Meter
from shimmy_plugins.commands.bench.peers import Setup, choose_peer, known_peers, peer_kv_type
from shimmy_plugins.commands.bench.report import Report
from shimmy_plugins.commands.bench.results import measure
from shimmy_plugins.commands.bench.samples import Rules
from shimmy_plugins.commands.bench.workload import Case, Prompter, Runner


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure."""

    model: Path
    cases: Sequence[Case]
    rules: Rules
    peer: str | None
    """``llama.cpp``, ``ik_llama.cpp``, or one way to run one of them."""
    peer_kv_type: str | None
    """None: the same as our own."""
    command: Sequence[str]
    """The command line, for the report."""


def run(request: Request, settings: Settings, plugins: Plugins, tell: Callable[[str], None]) -> Report:
    """Measure everything asked for. ``tell`` is called with lines about the progress.

    Raises:
        ConfigError: nothing to measure, or the peer cannot run here.
        ShimmyError: the model cannot be loaded or run.
    """
    if not request.cases:
        raise ConfigError("nothing to measure: --prompt-tokens and --generate are both 0.")
    # Before anything slow, so that what is wrong is noticed at once.
    kv_type = peer_kv_type(request.peer_kv_type, settings.kv_type, request.peer)
    peer = choose_peer(request.peer, known_peers()) if request.peer else None
    threads = settings.threads or usable_cores()
    with ExitStack() as stack:
        meter = Meter()
        tell(f"loading {request.model.name}")
        ours, load_seconds = load_runner(
            request.model, EngineSettings.of(settings), plugins, request.cases, meter
        )
        runners: list[Runner] = [stack.enter_context(closing(ours))]
        if peer:
            tell(f"starting {peer.name}")
            theirs = peer.start(_setup(request, threads, kv_type), meter)
            runners.append(stack.enter_context(closing(theirs)))
        probe = CeilingProbe(threads, settings.instructions)
        results = measure(
            runners,
            request.cases,
            Prompter(ours.ready.vocabulary),
            request.rules,
            probe,
            meter,
            lambda case: tell(f"{case.label}, batch {case.batch}, depth {case.depth}"),
        )
        return Report(
            model=request.model,
            ready=ours.ready,
            threads=threads,
            load_seconds=load_seconds,
            costs=read_costs(request.model, plugins.quant_types, ours.ready.kv_bytes_per_token),
            ceilings=probe.measure(),
            rules=request.rules,
            results=results,
            command=request.command,
            peer=runners[1].description if peer else None,
        )


def _setup(request: Request, threads: int, kv_type: str) -> Setup:
    return Setup(
        model=request.model,
        threads=threads,
        context=max(case.context for case in request.cases),
        sequences=max(case.batch for case in request.cases),
        kv_type=kv_type,
    )
