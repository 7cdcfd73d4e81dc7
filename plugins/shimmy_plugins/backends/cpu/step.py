"""What kernels read of a step: a header of counts, and arrays filled anew each step."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Limits
from shimmy.errors import EngineError
from shimmy.graph.batch import Batch
from shimmy.graph.rope import RopeFrequencies, rope_frequencies
from shimmy.graph.scaling import RopeScaling
from shimmy_plugins.backends.cpu.attention_work import AttentionWork
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS, KVCache
from shimmy_plugins.backends.cpu.memory import aligned_floats

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Cosine and sine of the batch's positions, each (T, pairs), for rotations of one kind."""

    frequencies: RopeFrequencies
    cos: F32
    sin: F32

    def fill(self, positions: I32) -> None:
        rows = len(positions)
        self.cos[:rows], self.sin[:rows] = self.frequencies.cos_sin(positions)


class StepInputs:
    """Arrays at fixed addresses, sized for the largest step."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        rows = limits.step_tokens
        self.tokens = np.zeros(rows, np.int32)
        self.positions = np.zeros(rows, np.int32)
        self.slots = np.zeros(rows, np.int32)
        self.outputs = np.zeros(rows, np.int32)
        self.tables = np.zeros((limits.max_sequences, -(-limits.max_ctx // BLOCK_TOKENS)), np.int32)
        header = np.zeros(3, np.int64)
        self.rows, self.output_rows, self.block_addresses = (header[i : i + 1] for i in range(3))
        self.attention = AttentionWork(limits)
        self.batch: Batch | None = None
        """The step itself, for functions of Python."""
        self.vocabulary = 2**31
        """Rows of the smallest embedding matrix."""
        self.context = 2**31
        """The same of positions."""
        self._ropes: dict[Hashable, RopeTable] = {}

    def rope_table(self, base: float, dims: int, scaling: RopeScaling, factors: F32 | None) -> RopeTable:
        """The table for rotations of this kind; ``factors`` is the tensor that ``scaling`` names."""
        kind = (base, dims, scaling)
        if kind not in self._ropes:
            frequencies = rope_frequencies(base, dims, scaling, factors)
            cos, sin = (aligned_floats(self.limits.step_tokens, dims // 2) for _ in range(2))
            self._ropes[kind] = RopeTable(frequencies, cos, sin)
        return self._ropes[kind]

    def fill(self, batch: Batch, cache: KVCache) -> None:
        """Take over a batch. EngineError if it does not fit the limits or the reserved blocks."""
        self._check(batch, cache)
        self.batch = batch
        rows, outputs = len(batch.tokens), len(batch.outputs)
        sequences, blocks = batch.block_tables.shape
        self.rows[0], self.output_rows[0] = rows, outputs
        self.block_addresses[0] = cache.addresses.ctypes.data
        self.tokens[:rows] = batch.tokens
        self.positions[:rows] = batch.positions
        self.slots[:rows] = batch.slots
        self.outputs[:outputs] = batch.outputs
        self.tables[:sequences, :blocks] = batch.block_tables
        self.attention.fill(batch)
        for table in self._ropes.values():
            table.fill(batch.positions)

    def _check(self, batch: Batch, cache: KVCache) -> None:
        """Kernels do not check addresses, so a wrong batch must end here."""
        rows, (sequences, blocks) = len(batch.tokens), batch.block_tables.shape
        if not 0 < rows <= len(self.tokens) or sequences > len(self.tables) or blocks > self.tables.shape[1]:
            raise EngineError(
                f"a step of {rows} tokens, {sequences} sequences of {blocks} blocks exceeds the plan's "
                f"limits: {len(self.tokens)}, {self.tables.shape[0]}, {self.tables.shape[1]}."
            )
        if batch.tokens.min() < 0 or batch.tokens.max() >= self.vocabulary:
            raise EngineError(f"a token of the step is outside the vocabulary of {self.vocabulary}.")
        if batch.positions.max() >= self.context:
            raise EngineError(f"a position of the step is outside the {self.context} that the model knows.")
        last = batch.positions // BLOCK_TOKENS
        if last.min() < 0 or last.max() >= blocks:
            raise EngineError("a position of the step lies outside its block table.")
        used = batch.block_tables[batch.slots, last]
        if used.min() < 0 or used.max() >= cache.blocks:
            raise EngineError(f"a step uses KV block {used.max()}, only {cache.blocks} are reserved.")
