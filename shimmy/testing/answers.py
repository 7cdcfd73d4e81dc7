"""Answers of other people's programs, on record in a JSON file, and how near an engine comes to them.

The file names prompts by their token ids, and holds answers to them, in one place or several::

    {
      "prompts": [{"id": "short", "ids": [1, 450, 3826]}],
      "transformers_f32": {"prompts": {"short": {
        "greedy_ids": [310, 278], "margins": [2.1, 0.4],
        "last_logits": {"top20": [[310, 11.25], [29892, 9.125]]}}}}
    }

``margins`` are how much better each token was than the next best; ``last_logits`` (or ``first_logits``) are
those after the prompt, of some tokens. Both may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Plan
from shimmy.errors import ConfigError
from shimmy.testing.steps import CHUNK, Part, batch_of, rows_of

#: By precision: the margin below which another order of additions may prefer the other token, and by how
#: much logits may differ, as a part of the largest one on record.
TIES = {"f32": 0.02, "int8": 0.3}
TOLERANCES = {"f32": 1e-3, "int8": 0.1}


@dataclass(frozen=True, slots=True)
class Answer:
    """What another program answers to a prompt."""

    prompt: str
    ids: Sequence[int]
    greedy: Sequence[int]
    """The most probable token after the prompt, then after that one, and so on."""
    margins: Sequence[float]
    """How much better each was than the next best; empty: not on record."""
    logits: Mapping[int, float]
    """After the prompt, of some tokens."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One comparison with an answer."""

    prompt: str
    kind: str
    """"tokens" or "logits"."""
    count: int
    """Tokens or logits compared."""
    agreed: int
    """Those of them that are the same, of tokens; of logits all."""
    error: float
    """Of tokens the largest margin at which another one was chosen; of logits see :data:`TOLERANCES`."""
    limit: float
    detail: str
    """The first token that differs."""

    @property
    def passed(self) -> bool:
        return self.error <= self.limit

    def __str__(self) -> str:
        return (
            f"prompt {self.prompt!r}: {self.kind} are off by {self.error:.3g}, at most {self.limit:.3g} is "
            f"allowed. {self.detail}".rstrip()
        )


def read_answers(path: Path, place: str | None = None) -> list[Answer]:
    """The answers in a file.

    Args:
        place: keys that lead to them, ``llamacpp.q4_k_m``; None: the only ones at the top of the file.

    Raises:
        ConfigError: the file holds none, or more than one and ``place`` does not say which.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        prompts = {prompt["id"]: prompt["ids"] for prompt in content["prompts"]}
        answers = _at(content, place, path)["prompts"]
        return [_answer(name, ids, answers[name]) for name, ids in prompts.items() if name in answers]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: holds no answers as expected: {error!r}.",
            hint="docs/testing.md shows what such a file looks like.",
        ) from error


def record_answers(
    program: str,
    logits: Callable[[Sequence[int]], NDArray[Any]],
    prompts: Mapping[str, Sequence[int]],
    count: int = 48,
) -> dict[str, Any]:
    """The content of a file of answers.

    Args:
        logits: those after the last of some tokens, as the program computes them.
        prompts: token ids by the prompt's name.
    """
    answers = {}
    for name, ids in prompts.items():
        rows: list[NDArray[Any]] = []
        greedy: list[int] = []
        while len(greedy) < count:
            rows.append(np.asarray(logits([*ids, *greedy])))
            greedy.append(int(rows[-1].argmax()))
        best = [np.sort(row)[-2:] for row in rows]
        top = np.argsort(-rows[0])[:20]
        answers[name] = {
            "greedy_ids": greedy,
            "margins": [float(first - second) for second, first in best],
            "last_logits": {"top20": [[int(token), float(rows[0][token])] for token in top]},
        }
    return {
        "prompts": [{"id": name, "ids": list(ids)} for name, ids in prompts.items()],
        program: {"prompts": answers},
    }


def compare(plan: Plan, answer: Answer) -> Iterator[Outcome]:
    """An engine's logits after the prompt, and the tokens it would choose after each of the answer's."""
    ids = [*answer.ids, *answer.greedy[:-1]]
    blocks = range(-(-len(ids) // plan.block_tokens))
    plan.reserve(len(blocks))
    for start in range(0, len(answer.ids), CHUNK):
        prompt = Part(answer.ids[start : start + CHUNK], start, blocks)
        rows = [rows_of(plan, batch_of([prompt]))[0]]
    if answer.logits:
        found = rows[0][list(answer.logits)]
        expected = np.array(list(answer.logits.values()), np.float32)
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        limit = TOLERANCES[plan.precision]
        yield Outcome(
            answer.prompt, "logits", len(expected), len(expected), inf if isnan(error) else error, limit, ""
        )
    # After a token that differs the answer's own goes on, so that every step can be judged.
    steps = (batch_of([Part([ids[at]], at, blocks)]) for at in range(len(answer.ids), len(ids)))
    rows.extend(rows_of(plan, step)[0] for step in steps)
    margins = answer.margins or [inf] * len(answer.greedy)
    chosen = [int(row.argmax()) if np.isfinite(row).all() else -1 for row in rows]
    wrong = [i for i, token in enumerate(answer.greedy) if chosen[i] != token]
    error = max((margins[i] if chosen[i] >= 0 else inf for i in wrong), default=0.0)
    detail = f"token {wrong[0]} is {chosen[wrong[0]]}, not {answer.greedy[wrong[0]]}" if wrong else ""
    count = len(answer.greedy)
    yield Outcome(answer.prompt, "tokens", count, count - len(wrong), error, TIES[plan.precision], detail)


def _at(content: Mapping[str, Any], place: str | None, path: Path) -> Any:
    if place is not None:
        for key in place.split("."):
            content = content[key]
        return content
    found = [key for key, value in content.items() if isinstance(value, dict) and "prompts" in value]
    if len(found) != 1:
        raise ConfigError(
            f"{path}: holds answers in {len(found)} places ({', '.join(found) or 'none'}), expected one.",
            hint=f"Say which: {path.name}#KEY.",
        )
    return content[found[0]]


def _answer(name: str, ids: Sequence[int], answer: Mapping[str, Any]) -> Answer:
    logits = answer.get("last_logits") or answer.get("first_logits") or {"top20": []}
    return Answer(
        prompt=name,
        ids=ids,
        greedy=answer["greedy_ids"],
        margins=answer.get("margins", ()),
        logits={int(token): float(value) for token, value in logits["top20"]},
    )
