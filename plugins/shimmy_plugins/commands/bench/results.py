"""Measures all cases, of shimmy alone or in turns with a peer, and keeps what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import tee

from shimmy_plugins.commands.bench.ceilings import CeilingProbe
from shimmy_plugins.commands.bench.noise import Meter, Patience, Timed
from shimmy_plugins.commands.bench.samples import Rules, Samples, collect
from shimmy_plugins.commands.bench.summary import Summary
from shimmy_plugins.commands.bench.workload import Case, Prompter, Prompts, Runner, run_case


@dataclass(frozen=True, slots=True)
class Result:
    """The samples of one case: of shimmy first, of the peer second if there is one."""

    case: Case
    samples: Samples[Timed]

    def tokens_per_second(self, engine: int = 0) -> Summary | None:
        """Of all sequences together."""
        tokens = self.case.tokens * self.case.batch
        return self.samples.summary(lambda taken: tokens / taken[engine].seconds)

    def first_token(self) -> Summary | None:
        """Seconds until every sequence has its first token; None for a decode."""
        if self.case.test == "decode":
            return None
        return self.samples.summary(lambda taken: taken[0].seconds)

    def ratio(self) -> Summary | None:
        """How many times as fast as the peer, pair by pair."""
        return self.samples.summary(lambda taken: taken[1].seconds / taken[0].seconds)


def measure(
    runners: Sequence[Runner],
    cases: Sequence[Case],
    prompter: Prompter,
    rules: Rules,
    probe: CeilingProbe,
    meter: Meter,
    progress: Callable[[Case], None],
) -> list[Result]:
    """All cases one after the other; the machine's ceilings are looked at between them."""
    results = []
    for case in cases:
        progress(case)
        probe.measure()
        prompts = tee(prompter.for_samples(case), len(runners))
        measures = [partial(_sample, runner, case, p) for runner, p in zip(runners, prompts, strict=True)]
        patience = Patience(meter, rules.max_foreign, rules.wait)
        results.append(Result(case, collect(measures, rules, patience.wait)))
    probe.measure()
    return results


def _sample(runner: Runner, case: Case, prompts: Iterator[Prompts]) -> Timed:
    return run_case(runner, case, next(prompts))
