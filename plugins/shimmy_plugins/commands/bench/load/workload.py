"""What the clients ask: the same questions for every server and in every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from shimmy_plugins.commands.bench.clients import Question

#: Prompts are these words in any order: text that any vocabulary can spell, and no two alike.
_WORDS = (
    *("the", "a", "every", "river", "mountain", "garden", "letter", "window", "child", "doctor", "teacher"),
    *("open", "read", "carry", "follow", "remember", "bright", "quiet", "heavy", "simple", "early"),
    *("between", "under", "without", "because", "although", "and", "but", "then", "before"),
)
#: Of the prompts of streams that only decode.
STREAM_PROMPT = 16


@dataclass(frozen=True, slots=True)
class Load:
    """Clients, each of which sends its next request when it has the answer to the last."""

    clients: int
    requests: int
    prompts: tuple[int, int]
    """Shortest and longest, in tokens; lengths between are equally likely."""
    answers: tuple[int, int]
    seed: int

    @property
    def context(self) -> int:
        """Positions that the longest request needs."""
        return max(self.prompts[1], STREAM_PROMPT) + self.answers[1] + 1


def questions(load: Load, encode: Callable[[str], list[int]]) -> list[Question]:
    """All requests, in the order in which they are sent."""
    draw = random.Random(load.seed)  # noqa: S311 - nothing secret about it
    return [
        Question(_prompt(draw, draw.randint(*load.prompts), encode), draw.randint(*load.answers))
        for _ in range(load.requests)
    ]


def streams(load: Load, encode: Callable[[str], list[int]]) -> list[Question]:
    """A question for each client, and one more: short prompts, the longest answers."""
    draw = random.Random(load.seed + 1)  # noqa: S311
    return [Question(_prompt(draw, STREAM_PROMPT, encode), load.answers[1]) for _ in range(load.clients + 1)]


def _prompt(draw: random.Random, tokens: int, encode: Callable[[str], list[int]]) -> list[int]:
    # Words are a token or more.
    return encode(" ".join(draw.choices(_WORDS, k=tokens)))[:tokens]
