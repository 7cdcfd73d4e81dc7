"""Starts each server in turn, and has its clients ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from shimmy_plugins.commands.bench.clients import Answer, Question, ask_all
from shimmy_plugins.commands.bench.noise import Meter, Patience
from shimmy_plugins.commands.bench.samples import Rules, Samples, collect
from shimmy_plugins.commands.bench.servers import Launch, ServerProcess

#: What a server answers before anything is timed.
_WARM_UP = Question([1, 2, 3, 4], 4)


@dataclass(frozen=True, slots=True)
class Round:
    """What one server, freshly started, did under the load."""

    answers: list[Answer]
    seconds: float
    """From the first request to the end of the last answer."""
    one_stream: float
    """Tokens per second of a single stream."""
    all_streams: float
    """Of as many as there are clients, together."""
    foreign: float

    @property
    def output_rate(self) -> float:
        """Generated tokens per second."""
        return sum(answer.tokens for answer in self.answers) / self.seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was found; a server's number is its place in ``launches``."""

    launches: Sequence[Launch]
    rounds: Samples[Round]
    alone: Sequence[Sequence[Answer]]
    """By server: each question's answer when nothing else is asked."""


def run(
    launches: Sequence[Launch],
    asked: Sequence[Question],
    decoding: Sequence[Question],
    clients: int,
    rules: Rules,
    tell: Callable[[str], None],
) -> Outcome:
    """Rounds of all servers in turn, then each alone with one client.

    A server is started for each round and ended after it: none remembers a prompt, and none takes
    memory or time from another.

    Raises:
        EngineError: a server does not start.
    """
    meter = Meter()

    def measure(launch: Launch) -> Round:
        tell(f"{launch.name}: {len(asked)} requests of {clients} clients")
        return _round(launch, asked, decoding, clients, meter)

    patience = Patience(meter, rules.max_foreign, rules.wait)
    rounds = collect([partial(measure, launch) for launch in launches], rules, patience.wait)
    alone = []
    for launch in launches:
        tell(f"{launch.name}: each request alone")
        with ServerProcess(launch) as server:
            server.wait_until_healthy()
            alone.append(ask_all(server.url, asked, clients=1))
    return Outcome(launches, rounds, alone)


def _round(
    launch: Launch, asked: Sequence[Question], decoding: Sequence[Question], clients: int, meter: Meter
) -> Round:
    with ServerProcess(launch) as server:
        server.wait_until_healthy()
        ask_all(server.url, [_WARM_UP], clients=1)
        with meter.window() as window:
            started = time.perf_counter()
            answers = ask_all(server.url, asked, clients)
            seconds = time.perf_counter() - started
            # Not the prompt of one of the streams below, which the server would remember.
            one = _stream_rate(server.url, decoding[-1:])
            together = _stream_rate(server.url, decoding[:-1])
    return Round(answers, seconds, one, together, window.result().foreign)


def _stream_rate(url: str, decoding: Sequence[Question]) -> float:
    """Tokens per second of all questions at once, from the first request to the end of the last answer."""
    started = time.perf_counter()
    answers = ask_all(url, decoding, clients=len(decoding))
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - started)
