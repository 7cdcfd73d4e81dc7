"""The steps that an engine is tried on: prompts of several sequences, then a token of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Plan
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling
from shimmy.graph.batch import Batch

#: Lengths of the prompts that are read together.
PROMPTS = (5, 2, 1)
#: Rows of the largest step.
ROWS = sum(PROMPTS)
#: Positions that a sequence may have.
CONTEXT = 32

_GREEDY = RowSampling(Sampling(temperature=0.0), 0, {}, {})


def prompt_step(plan: Plan, tokens: Sequence[int], lengths: Sequence[int] = PROMPTS) -> Batch:
    """The beginnings of sequences; the logits of every row are wanted."""
    positions = np.concatenate([np.arange(length) for length in lengths])
    return _batch(plan, tokens, positions, np.repeat(np.arange(len(lengths)), lengths), generated=0)


def generated_step(plan: Plan, tokens: Sequence[int], positions: Sequence[int] = PROMPTS) -> Batch:
    """One more token of each sequence."""
    count = len(positions)
    return _batch(plan, tokens, np.array(positions), np.arange(count), generated=count)


def reserve(plan: Plan) -> None:
    """Make room for all sequences."""
    plan.reserve(len(PROMPTS) * _blocks(plan))


def run(plan: Plan, batch: Batch) -> NDArray[np.float32]:
    """(rows, width): what the plan computes for each row of a step."""
    return plan.submit(batch, [_GREEDY] * len(batch.outputs)).logits().copy()


def _batch(
    plan: Plan, tokens: Sequence[int], positions: NDArray[np.int64], slots: NDArray[np.int64], generated: int
) -> Batch:
    rows, blocks = len(positions), _blocks(plan)
    tables = np.arange((int(slots.max()) + 1) * blocks, dtype=np.int32).reshape(-1, blocks)
    return Batch(
        np.asarray(tokens, np.int32),
        positions.astype(np.int32),
        slots.astype(np.int32),
        tables,
        np.arange(rows, dtype=np.int32),
        generated=generated,
    )


def _blocks(plan: Plan) -> int:
    """Of one sequence."""
    return -(-CONTEXT // plan.block_tokens)
