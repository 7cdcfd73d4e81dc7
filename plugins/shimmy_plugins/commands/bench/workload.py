"""What is measured: cases, the prompts for them, and what every engine must be able to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from shimmy_plugins.commands.bench.noise import Timed


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the result."""

    test: Literal["prefill", "decode"]
    tokens: int
    """Of each sequence: those of its prompt, or those generated."""
    batch: int
    depth: int = 0
    """Tokens in each sequence's context before those measured."""

    @property
    def label(self) -> str:
        """``decode 128``."""
        return f"{self.test} {self.tokens}"

    @property
    def context(self) -> int:
        """Positions that a sequence needs."""
        return max(1, self.depth) + self.tokens + 1


def cases(
    prompt_tokens: Sequence[int], generate: Sequence[int], batches: Sequence[int], depths: Sequence[int]
) -> list[Case]:
    """All combinations; lengths of 0 leave a test out."""
    found: list[Case] = []
    for batch in batches:
        found += [Case("prefill", tokens, batch) for tokens in prompt_tokens if tokens]
        found += [Case("decode", tokens, batch, d) for tokens in generate if tokens for d in depths]
    return found


Prompts = list[list[int]]


class Prompter:
    """Prompts of random tokens, the same ones for every engine and in every run."""

    def __init__(self, vocabulary: int) -> None:
        # The first ids are control tokens and bytes in most vocabularies.
        self._first = min(300, vocabulary // 2)
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(1)

    def draw(self, batch: int, length: int) -> Prompts:
        """``batch`` prompts of ``length`` tokens, at least one."""
        size = (batch, max(1, length))
        drawn: Prompts = self._random.integers(self._first, self._vocabulary, size).tolist()
        return drawn

    def for_samples(self, case: Case) -> Iterator[Prompts]:
        """The prompts of one sample after the other.

        New ones for each prefill, since engines remember prompts; the same for each decode, for
        the same reason.
        """
        context = self.draw(case.batch, case.depth)
        while True:
            yield self.draw(case.batch, case.tokens) if case.test == "prefill" else context


class Runner(Protocol):
    """An engine that is measured."""

    description: str
    """Name and version, for people."""

    def prefill(self, prompts: Prompts) -> Timed:
        """The time until every prompt has its first token."""
        ...

    def decode(self, prompts: Prompts, steps: int) -> Timed:
        """The time of ``steps`` steps of all sequences together, after their prompts."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


def run_case(runner: Runner, case: Case, prompts: Prompts) -> Timed:
    """One sample."""
    if case.test == "prefill":
        return runner.prefill(prompts)
    return runner.decode(prompts, case.tokens)
