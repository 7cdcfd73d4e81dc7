"""Steps of a plan: parts of sequences, what comes of them, greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Plan
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling
from shimmy.graph.batch import Batch

F32 = NDArray[np.float32]

GREEDY = RowSampling(Sampling(temperature=0.0), 0, {}, {})
#: Tokens of a prompt that :func:`generate_greedy` gives to a plan at a time.
CHUNK = 128


@dataclass(frozen=True)
class Part:
    """Some tokens of one sequence: the ids, the position of the first, the blocks of the sequence."""

    tokens: Sequence[int]
    start: int = 0
    blocks: Sequence[int] = (0,)


def batch_of(parts: Iterable[Part], *, every_row: bool = False) -> Batch:
    """A step of parts of sequences; the logits of each part's last row are wanted, or of every row."""
    parts = list(parts)
    tokens = np.concatenate([np.array(p.tokens, np.int32) for p in parts])
    positions = np.concatenate([p.start + np.arange(len(p.tokens)) for p in parts]).astype(np.int32)
    slots = np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.tokens) for p in parts])
    tables = np.zeros((len(parts), max(len(p.blocks) for p in parts)), np.int32)
    for row, part in zip(tables, parts, strict=True):
        row[: len(part.blocks)] = part.blocks
    ends = np.cumsum([len(p.tokens) for p in parts]) - 1
    outputs = (np.arange(len(tokens)) if every_row else ends).astype(np.int32)
    # Single tokens behind others stand for generated ones.
    generated = sum(1 for _ in takewhile(lambda p: len(p.tokens) == 1 and p.start > 0, parts))
    return Batch(tokens, positions, slots, tables, outputs, generated=generated)


def rows_of(plan: Plan, batch: Batch) -> F32:
    """(R, width): a copy of the output rows of a step."""
    step = plan.submit(batch, [GREEDY] * len(batch.outputs))
    logits = step.logits()
    return logits.reshape(len(logits), -1).copy()


def as_it_is(batch: Batch) -> Batch:
    """The change of a step that changes nothing."""
    return batch


def generate_greedy(
    plan: Plan, ids: Sequence[int], count: int, change: Callable[[Batch], Batch] = as_it_is
) -> tuple[list[int], F32]:
    """The next ``count`` most probable tokens, and the logits after the prompt; prompts go in chunks.

    ``change`` may say more of each step.
    """
    blocks = range(-(-(len(ids) + count) // plan.block_tokens))
    plan.reserve(len(blocks))
    for start in range(0, len(ids), CHUNK):
        batch = batch_of([Part(ids[start : start + CHUNK], start, blocks)])
        step = plan.submit(change(batch), [GREEDY])
    first = step.logits()[0].copy()
    generated = [step.chosen()[0].token]
    while len(generated) < count:
        part = Part(generated[-1:], len(ids) + len(generated) - 1, blocks)
        generated.append(plan.submit(change(batch_of([part])), [GREEDY]).chosen()[0].token)
    return generated, first
