"""What a step's kernels read: rows, tables and wanted outputs of one phase, in one buffer of u32.

``shaders/shimmy_shaders/common/step.wgsl`` reads it:

    rows, outputs, blocks per table, first output, 0, 0, 0, 0
    then for each row    token, position, slot, where its entries begin (0: it has no adapter)
    then for each output its row
    then for each slot   the blocks of its table
    then for each row with adapters, for each of MOST_MIXED: its place + 1, its factor's bits; zeros behind

A token below zero, -1 - k, is the one chosen for output k of the step before. ``first output`` is the
number of outputs of the step that come before this phase's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Limits
from shimmy.engine.protocol import MOST_MIXED
from shimmy.graph.batch import Batch, LoraRows

HEADER = 8
ROW = 4

I32 = NDArray[np.int32]


def most_words(limits: Limits, rows: int, block_tokens: int) -> int:
    """Most numbers that a step of ``rows`` rows has, but for those of adapters."""
    return HEADER + rows * (ROW + 1) + limits.max_sequences * -(-limits.max_ctx // block_tokens)


def most_lora_words(rows: int) -> int:
    """Most numbers that adapters add to those."""
    return rows * 2 * MOST_MIXED


def outputs_of(batch: Batch, rows: slice) -> I32:
    """Which of some adjacent rows of a step have their logits wanted, counted from the first of them."""
    inside = (batch.outputs >= rows.start) & (batch.outputs < rows.stop)
    wanted: I32 = batch.outputs[inside] - np.int32(rows.start)
    return wanted


def has_adapters(batch: Batch, rows: slice) -> bool:
    """Whether some adjacent rows of a step have entries."""
    if batch.lora is None:
        return False
    return bool(((batch.lora.rows >= rows.start) & (batch.lora.rows < rows.stop)).any())


def phase_words(batch: Batch, rows: slice, first_output: int) -> I32:
    """The numbers for some adjacent rows of a step."""
    wanted = outputs_of(batch, rows)
    count = rows.stop - rows.start
    slots = batch.slots[rows]
    first, last = (int(slots.min()), int(slots.max()) + 1) if count else (0, 0)
    tables = batch.block_tables[first:last]
    size = HEADER + count * ROW + len(wanted) + tables.size
    starts, entries = (None, np.empty(0, np.int32)) if batch.lora is None else _entries(batch.lora, rows)
    words = np.zeros(size + len(entries), np.int32)
    words[:4] = count, len(wanted), tables.shape[1], first_output
    by_row = words[HEADER : HEADER + count * ROW].reshape(count, ROW)
    by_row[:, 0], by_row[:, 1], by_row[:, 2] = batch.tokens[rows], batch.positions[rows], slots - first
    at = HEADER + count * ROW
    words[at : at + len(wanted)] = wanted
    words[at + len(wanted) : size] = tables.ravel()
    if starts is not None:
        by_row[:, 3] = np.where(starts < 0, 0, starts + size)
        words[size:] = entries
    return words


def _entries(lora: LoraRows, rows: slice) -> tuple[I32, I32]:
    """Where each row's entries begin, -1 without any, and the entries of all."""
    mine = (lora.rows >= rows.start) & (lora.rows < rows.stop)
    # Places of a row ascend, as they do in the batch.
    order = np.argsort(lora.rows[mine], kind="stable")
    row = lora.rows[mine][order] - rows.start
    counts = np.bincount(row, minlength=rows.stop - rows.start)
    some = counts > 0
    words = np.zeros((some.sum(), MOST_MIXED, 2), np.int32)
    of_row, of_entry = (np.cumsum(some) - 1)[row], np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    words[of_row, of_entry, 0] = lora.adapters[mine][order] + 1
    words[of_row, of_entry, 1] = lora.scales[mine][order].astype(np.float32).view(np.int32)
    starts = np.where(some, (np.cumsum(some) - 1) * 2 * MOST_MIXED, -1).astype(np.int32)
    return starts, words.ravel()
