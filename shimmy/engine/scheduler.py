"""Decides which tokens of which sequences the next step computes.

Continuous batching: sequences join and leave between steps. Every decoding sequence gets its
token first, then prompts are computed in chunks, first come first served. When KV memory runs
out the sequence admitted last gives its blocks back and is computed again later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from shimmy.engine.blocks import BlockPool
from shimmy.engine.protocol import Stats
from shimmy.engine.sequence import Sequence
from shimmy.graph.batch import Batch


@dataclass(frozen=True, slots=True)
class Work:
    """The next ``count`` tokens of a sequence, as rows of a step."""

    sequence: Sequence
    count: int

    @property
    def has_output(self) -> bool:
        """Whether the last row is the sequence's newest token, so that its logits are wanted."""
        return self.count == self.sequence.pending


class Scheduler:
    """Owns the sequences and the block ids; knows no model and no device."""

    def __init__(self, pool: BlockPool, *, block_tokens: int, max_sequences: int, step_tokens: int) -> None:
        self.pool = pool
        self.block_tokens = block_tokens
        self.max_sequences = max_sequences
        self.step_tokens = step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def stats(self) -> Stats:
        return Stats(len(self.running), len(self.waiting), self.pool.used, self.pool.capacity)

    def next_step(self) -> list[Work]:
        """Choose the next step's rows and give their sequences the blocks they need."""
        budget = self.step_tokens
        work: list[Work] = []
        waiting = len(self.waiting)
        # Decoding sequences have one pending token, so sorting by need puts them first (stable).
        for sequence in sorted(self.running, key=lambda s: s.pending > 1):
            if budget and sequence in self.running and (count := self._fit(sequence, budget)):
                work.append(Work(sequence, count))
                budget -= count
        short_of_memory = len(self.waiting) > waiting  # something was preempted: admit nobody now
        while budget and self.waiting and len(self.running) < self.max_sequences and not short_of_memory:
            sequence = self.waiting[0]
            if self._blocks_for(sequence, len(sequence.tokens)) > self.pool.available:
                break
            self.running.append(self.waiting.popleft())
            count = self._fit(sequence, budget)
            work.append(Work(sequence, count))
            budget -= count
        # A preemption while fitting a later sequence may have taken an earlier one's blocks.
        return [w for w in work if w.sequence in self.running]

    def _fit(self, sequence: Sequence, budget: int) -> int:
        """Take blocks for the next tokens of a sequence; returns how many tokens (0: it was preempted)."""
        count = min(sequence.pending, budget)
        while (need := self._blocks_for(sequence, sequence.computed + count)) > self.pool.available:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return 0
        sequence.blocks += [self.pool.take() for _ in range(need)]
        return count

    def _blocks_for(self, sequence: Sequence, length: int) -> int:
        return max(-(-length // self.block_tokens) - len(sequence.blocks), 0)

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.computed = 0
        self.waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.give_back(sequence.blocks)
        sequence.blocks = []


def make_batch(work: list[Work]) -> Batch:
    """The arrays of a step; outputs follow the order of ``work``."""
    total = sum(w.count for w in work)
    tokens, positions, slots = (np.empty(total, np.int32) for _ in range(3))
    tables = np.zeros((len(work), max(len(w.sequence.blocks) for w in work)), np.int32)
    outputs: list[int] = []
    row = 0
    for slot, item in enumerate(work):
        sequence, rows = item.sequence, slice(row, row + item.count)
        start, row = sequence.computed, row + item.count
        tokens[rows] = sequence.tokens[start : start + item.count]
        positions[rows] = np.arange(start, start + item.count, dtype=np.int32)
        slots[rows] = slot
        tables[slot, : len(sequence.blocks)] = sequence.blocks
        if item.has_output:
            outputs.append(row - 1)
    return Batch(tokens, positions, slots, tables, np.array(outputs, np.int32))
