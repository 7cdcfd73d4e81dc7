"""What a step's kernels read: rows, tables and wanted outputs of one phase, in one buffer of u32.

``shaders/shimmy_shaders/common/step.wgsl`` reads it:

    rows, outputs, blocks per table, first output, 0, 0, 0, 0
    then for each row    token, position, slot, 0
    then for each output its row
    then for each slot   the blocks of its table

A token below zero, -1 - k, is the one chosen for output k of the step before. ``first output`` is the
number of outputs of the step that come before this phase's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Limits
from shimmy.graph.batch import Batch

HEADER = 8
ROW = 4

I32 = NDArray[np.int32]


def step_words(rows: int, sequences: int, max_ctx: int, block_tokens: int) -> int:
    """Most numbers a step of ``rows`` rows has."""
    return HEADER + rows * (ROW + 1) + sequences * -(-max_ctx // block_tokens)


def most_words(limits: Limits, rows: int, block_tokens: int) -> int:
    return step_words(rows, limits.max_sequences, limits.max_ctx, block_tokens)


def phase_words(batch: Batch, rows: slice, first_output: int) -> I32:
    """The numbers for some adjacent rows of a step."""
    wanted = batch.outputs[(batch.outputs >= rows.start) & (batch.outputs < rows.stop)] - rows.start
    count = rows.stop - rows.start
    slots = batch.slots[rows]
    first, last = (int(slots.min()), int(slots.max()) + 1) if count else (0, 0)
    tables = batch.block_tables[first:last]
    words = np.zeros(HEADER + count * ROW + len(wanted) + tables.size, np.int32)
    words[:4] = count, len(wanted), tables.shape[1], first_output
    by_row = words[HEADER : HEADER + count * ROW].reshape(count, ROW)
    by_row[:, 0], by_row[:, 1], by_row[:, 2] = batch.tokens[rows], batch.positions[rows], slots - first
    at = HEADER + count * ROW
    words[at : at + len(wanted)] = wanted
    words[at + len(wanted) :] = tables.ravel()
    return words
