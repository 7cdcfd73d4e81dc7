"""Answers of other programs, as comparisons of a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from shimmy.engine.load import RecordedModel
from shimmy.engine.plan import Backend, Limits, Progress
from shimmy.testing.answers import compare, read_answers
from shimmy.testing.steps import CHUNK
from shimmy_plugins.commands.verify.check import Check


def references(
    model: RecordedModel, backend: Backend, limits: Limits, progress: Progress, place: str
) -> Iterator[Check]:
    """Compare a backend with the answers at ``place``: a JSON file, and behind a ``#`` the keys to them.

    Raises:
        ConfigError: there are none.
        ShimmyError: the model cannot be compiled, or run.
    """
    file, _, keys = place.partition("#")
    answers = read_answers(Path(file), keys or None)
    context = max(len(answer.ids) + len(answer.greedy) for answer in answers)
    limits = replace(limits, max_ctx=context, max_sequences=1, step_tokens=CHUNK, packed_cache=0)
    with closing(backend.compile(model.graph, model.weights, limits, progress)) as plan:
        for number, answer in enumerate(answers):
            progress("references", number, len(answers))
            for each in compare(plan, answer):
                phase = "prompt" if each.kind == "logits" else "generated"
                yield Check("references", each.prompt, each.kind, phase, each.count, each.error, each.limit)
        progress("references", len(answers), len(answers))
