"""A plan without a model: the token after a row is a function of the row's token and position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.sampling import Chosen, RowSampling
from shimmy.graph.batch import Batch

VOCABULARY = 64


def successor(token: int, position: int) -> int:
    return (token * 7 + position * 3 + 1) % VOCABULARY


class FakeStep:
    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def chosen(self) -> list[Chosen]:
        return [Chosen(token) for token in self._tokens]

    def logits(self) -> NDArray[np.float32]:
        raise NotImplementedError


class FakePlan:
    """Checks every batch: it remembers which (sequence position, token) each block slot holds."""

    precision = "f32"
    description = "fake"
    weight_bytes = 0
    block_tokens = 4
    block_bytes = 1
    fallbacks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.reserved = 0
        self.most_reserved = 0
        self.steps: list[Batch] = []
        self._cache: dict[tuple[int, int], tuple[int, int]] = {}

    def reserve(self, blocks: int) -> None:
        self.reserved = blocks
        self.most_reserved = max(blocks, self.most_reserved)
        self._cache = {key: value for key, value in self._cache.items() if key[0] < blocks}

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> FakeStep:
        self.steps.append(batch)
        assert len(sampling) == len(batch.outputs)
        owners: dict[int, int] = {}
        rows = zip(batch.tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True)
        for token, position, slot in rows:
            block = int(batch.block_tables[slot, position // self.block_tokens])
            assert block < self.reserved, "a block outside the reserved cache"
            assert owners.setdefault(block, slot) == slot, "two sequences share a block"
            self._cache[block, position % self.block_tokens] = (position, token)
            for earlier in range(position):
                held = batch.block_tables[slot, earlier // self.block_tokens]
                found = self._cache.get((int(held), earlier % self.block_tokens))
                assert found is not None, "a position of the context was never computed"
                assert found[0] == earlier, "a block holds another position"
        tokens = [successor(int(batch.tokens[r]), int(batch.positions[r])) for r in batch.outputs]
        return FakeStep(tokens)

    def close(self) -> None:
        self.reserved = 0


def expected(prompt: list[int], count: int) -> list[int]:
    """What greedy generation of ``count`` tokens gives on the fake plan."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(successor(tokens[-1], len(tokens) - 1))
    return tokens[len(prompt) :]
