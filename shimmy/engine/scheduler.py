"""Decides which tokens of which sequences the next step computes.

Continuous batching: sequences join and leave between steps. Every decoding sequence gets its
token first, then prompts are computed in chunks. When KV memory runs out the sequence admitted
last gives its blocks back and is computed again later.

What a sequence is about to compute may have been computed before, for itself or for another: it then
shares the full blocks that hold it. A row's values do not depend on its batch, so nobody can tell.
With a plan whose rows depend on their phase, a sequence that is computed again generates again, a token
per step, and blocks are shared only among those who would compute them in the same phases.

A sequence may get rows while the token before them is in flight: see :class:`Sequence`. It does so in
every step, or else waits until it is known, so such a row always continues the step submitted last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from shimmy.engine.adapters import lora_rows
from shimmy.engine.blocks import BlockPool
from shimmy.engine.pace import Pace
from shimmy.engine.protocol import Stats
from shimmy.engine.sequence import Sequence
from shimmy.graph.batch import Batch


@dataclass(frozen=True, slots=True)
class Work:
    """The next ``count`` tokens of a sequence, as rows of a step."""

    sequence: Sequence
    count: int
    generated: bool
    """Whether it is one row of the generated phase."""

    @property
    def has_output(self) -> bool:
        """Whether the last row is the sequence's newest token, so that its logits are wanted."""
        return self.count == self.sequence.pending


class Scheduler:
    """Owns the sequences and the block ids; knows no model and no device."""

    def __init__(
        self, pool: BlockPool, *, block_tokens: int, max_sequences: int, step_tokens: int, phases: bool
    ) -> None:
        self.pool = pool
        self._shares = pool.keep > 0
        self._phases = phases
        self.block_tokens = block_tokens
        self.max_sequences = max_sequences
        self.pace = Pace(step_tokens)
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
        pool = self.pool
        return Stats(len(self.running), len(self.waiting), pool.used, pool.capacity, pool.cached)

    def next_step(self) -> list[Work]:
        """Choose the next step's rows and give their sequences the blocks they need."""
        self._admit()
        for sequence in self.running:
            if sequence.pending > 1:
                self._reuse(sequence)
        work: list[Work] = []
        generating = [s for s in self.running if self._generates(s)]
        for sequence in generating:
            if sequence.ready:
                self._add(work, Work(sequence, 1, generated=True))
        prompts = self._prompts()
        budget = self.pace.tokens(len(generating)) - len(work)
        counts = share_out([s.prompt_pending if self._phases else s.pending for s in prompts], budget)
        for sequence, count in zip(prompts, counts, strict=True):
            self._add(work, Work(sequence, count, generated=False))
        # Fitting a later sequence may have preempted one that was chosen before.
        return [w for w in work if w.sequence in self.running]

    def submitted(self, work: list[Work]) -> None:
        """A step is on its way: its rows count as computed, and each of its outputs as a token."""
        outputs = 0
        for item in work:
            sequence, has_output = item.sequence, item.has_output
            sequence.computed += item.count
            if has_output:
                sequence.in_flight += 1
                sequence.output = outputs
                outputs += 1
            self.publish(sequence)

    def publish(self, sequence: Sequence) -> None:
        """Blocks that are full of known tokens now can be found by others."""
        if not self._shares:
            return
        full = min(sequence.computed, len(sequence.tokens)) // self.block_tokens
        for i in range(sequence.published, full):
            sequence.blocks[i] = self.pool.publish(sequence.blocks[i], self._key(sequence, i))
            sequence.published = i + 1

    def _generates(self, sequence: Sequence) -> bool:
        """Whether its next row is of the generated phase."""
        return sequence.prompt_pending <= 0 and (self._phases or sequence.pending == 1)

    def _key(self, sequence: Sequence, block: int) -> bytes:
        return sequence.key(block, self.block_tokens, phases=self._phases)

    def _admit(self) -> None:
        """Let waiting sequences in, as long as there are blocks for all of every prompt that is in."""
        promised = sum(self._blocks_for(s, len(s.tokens)) for s in self.running)
        while self.waiting and len(self.running) < self.max_sequences:
            sequence = self.waiting[0]
            if sequence.in_flight:  # it was preempted; all of its tokens are known soon
                return
            self._reuse(sequence)
            promised += self._blocks_for(sequence, len(sequence.tokens))
            if promised > self.pool.available:
                self._forget(sequence)
                return
            self.running.append(self.waiting.popleft())

    def _prompts(self) -> list[Sequence]:
        """The sequences that compute a part of their prompt in this step.

        One whose next block another is about to compute waits, and then shares it.
        """
        prompts: list[Sequence] = []
        begun: set[bytes] = set()
        for sequence in [s for s in self.running if not self._generates(s)]:
            block = sequence.computed // self.block_tokens
            if self._shares and block < self._shareable(sequence):
                key = self._key(sequence, block)
                if key in begun:
                    continue
                begun.add(key)
            prompts.append(sequence)
        return prompts

    def _reuse(self, sequence: Sequence) -> None:
        """Share known blocks in place of what the sequence has yet to compute, begun blocks included."""
        if not self._shares:
            return
        for i in range(sequence.computed // self.block_tokens, self._shareable(sequence)):
            found = self.pool.find(self._key(sequence, i))
            if found is None:
                return
            self.pool.give_back(sequence.blocks[i:])
            sequence.blocks[i:] = [found]
            sequence.found((i + 1) * self.block_tokens)
            sequence.published = i + 1

    def _shareable(self, sequence: Sequence) -> int:
        """How many blocks of known tokens a sequence could share: one token is computed for its logits."""
        return (len(sequence.tokens) - 1) // self.block_tokens

    def _add(self, work: list[Work], item: Work) -> None:
        if item.count and item.sequence in self.running and self._fit(item.sequence, item.count):
            work.append(item)

    def _fit(self, sequence: Sequence, count: int) -> bool:
        """Take blocks for a sequence's next ``count`` tokens; False if it was preempted for want of them."""
        while (need := self._blocks_for(sequence, sequence.computed + count)) > self.pool.available:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += [self.pool.take() for _ in range(need)]
        return True

    def _blocks_for(self, sequence: Sequence, length: int) -> int:
        return max(-(-length // self.block_tokens) - len(sequence.blocks), 0)

    def restart(self, sequences: Iterable[Sequence]) -> None:
        """Compute all of them anew: nothing is in flight any more, and the KV cache is not to be trusted."""
        for sequence in sequences:
            sequence.in_flight = 0
        for sequence in reversed(list(self.running)):
            self._preempt(sequence)
        self.pool.drop_from(0)

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._forget(sequence)
        self.waiting.appendleft(sequence)

    def _forget(self, sequence: Sequence) -> None:
        """Begin a sequence anew."""
        self._release(sequence)
        sequence.restart()

    def _release(self, sequence: Sequence) -> None:
        self.pool.give_back(sequence.blocks)
        sequence.blocks = []


def share_out(pending: list[int], budget: int) -> list[int]:
    """How many tokens of each prompt a step computes, the prompts in order of arrival.

    The oldest gets three quarters of the budget and what nobody else needs; the rest goes to the
    prompts with least to do. So a short prompt does not wait for all of a long one before it, and
    a long one is not held up for ever by short ones.
    """
    counts = [0] * len(pending)
    if not pending:
        return counts
    counts[0] = min(pending[0], budget - min(sum(pending[1:]), budget // 4))
    budget -= counts[0]
    for index in sorted(range(1, len(pending)), key=pending.__getitem__):
        counts[index] = min(pending[index], budget)
        budget -= counts[index]
    return counts


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
        known = start < len(sequence.tokens)
        tokens[rows] = sequence.tokens[start : start + item.count] if known else -1 - sequence.output
        positions[rows] = np.arange(start, start + item.count, dtype=np.int32)
        slots[rows] = slot
        tables[slot, : len(sequence.blocks)] = sequence.blocks
        if item.has_output:
            outputs.append(row - 1)
    lora = lora_rows([(w.count, w.sequence.adapters) for w in work])
    generated = sum(w.generated for w in work)
    return Batch(tokens, positions, slots, tables, np.array(outputs, np.int32), lora, generated)
