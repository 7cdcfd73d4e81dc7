"""Starts each server in turn, with warm caches and with cold ones, and waits for its first token."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from shimmy import caches
from shimmy_plugins.commands.bench.clients import Question, ask
from shimmy_plugins.commands.bench.noise import Meter, Patience
from shimmy_plugins.commands.bench.samples import Rules, Samples, collect
from shimmy_plugins.commands.bench.servers import Launch, ServerProcess


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from starting the process."""

    healthy: float
    """To the first answer of ``/health`` that says 200."""
    first_token: float
    """To the first piece of text of a request sent right then."""
    foreign: float


@dataclass(frozen=True, slots=True)
class Entrant:
    """A server that is started, under a name for the table."""

    name: str
    launch: Launch
    cold: bool = False
    """Whether its caches are empty at each start."""


def entrants(launches: Sequence[Launch]) -> list[Entrant]:
    """The first server is our own, and is started with a cold cache of kernels too."""
    own, *others = launches
    return [Entrant(own.name, own), *(Entrant(o.name, o) for o in others), Entrant("cold", own, cold=True)]


def run(
    started: Sequence[Entrant], question: Question, rules: Rules, tell: Callable[[str], None]
) -> Samples[Start]:
    """Samples of all entrants in turn. Raises EngineError: one does not start, or does not answer."""
    meter = Meter()

    def measure(entrant: Entrant) -> Start:
        tell(f"starting {entrant.name}")
        with _empty_cache(entrant.launch) if entrant.cold else nullcontext(entrant.launch) as launch:
            return _start(launch, question, meter)

    patience = Patience(meter, rules.max_foreign, rules.wait)
    return collect([partial(measure, entrant) for entrant in started], rules, patience.wait)


@contextmanager
def _empty_cache(launch: Launch) -> Iterator[Launch]:
    with tempfile.TemporaryDirectory() as folder:
        yield replace(launch, environment={**launch.environment, caches.VARIABLE: folder})


def _start(launch: Launch, question: Question, meter: Meter) -> Start:
    with meter.window() as window, ServerProcess(launch) as server:
        healthy = server.wait_until_healthy()
        asked = time.perf_counter() - server.started
        answer = ask(server.url, question)
        if answer.error:
            raise server.child.failure(f"gave no answer ({answer.error})")
    return Start(healthy, asked + answer.first, window.result().foreign)
