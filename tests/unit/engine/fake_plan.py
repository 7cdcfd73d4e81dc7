"""A plan without a model: the token after a row is a function of all tokens its context holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Segments
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import Chosen, RowSampling
from shimmy.graph.batch import Batch
from shimmy.graph.lora import Terms

VOCABULARY = 64


def successor(context: Sequence[int]) -> int:
    return sum(token * (7 + 2 * i) + 3 for i, token in enumerate(context)) % VOCABULARY


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
    mapped_bytes = 0
    device_memory: int | None = None
    device_bytes: int | None = None
    host: Segments | None = None
    kv_type = "f32"
    block_tokens = 4
    block_bytes = 1
    fallbacks: tuple[str, ...] = ()
    ahead = 1

    def __init__(self, *, phases: bool = False) -> None:
        """With ``phases`` a token counts for one more if its row was generated."""
        self.phases = phases
        self.adapters: dict[int, Terms] = {}
        self.reserved = 0
        self.most_reserved = 0
        self.steps: list[Batch] = []
        self._cache: dict[tuple[int, int], tuple[int, int]] = {}

    def reserve(self, blocks: int) -> None:
        self.reserved = blocks
        self.most_reserved = max(blocks, self.most_reserved)
        self._cache = {key: value for key, value in self._cache.items() if key[0] < blocks}

    def put_adapter(self, place: int, terms: Terms | None) -> None:
        if terms is None:
            del self.adapters[place]
        else:
            self.adapters[place] = terms

    def samples_ahead(self, sampling: Sampling) -> bool:
        return False

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> FakeStep:
        self.steps.append(batch)
        assert len(sampling) == len(batch.outputs)
        slots = batch.slots.tolist()
        generated = set(slots[: batch.generated])
        assert len(generated) == batch.generated, "two generated rows of a sequence"
        assert not self.phases or generated.isdisjoint(slots[batch.generated :]), "rows of both phases"
        owners: dict[int, int] = {}
        tokens = batch.tokens + self.phases * (np.arange(len(batch.tokens)) < batch.generated)
        rows = zip(tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True)
        for token, position, slot in rows:
            block = int(batch.block_tables[slot, position // self.block_tokens])
            assert block < self.reserved, "a block outside the reserved cache"
            assert owners.setdefault(block, slot) == slot, "two sequences share a block"
            self._cache[block, position % self.block_tokens] = (position, token)
        for place in [] if batch.lora is None else batch.lora.adapters.tolist():
            assert place in self.adapters, "a row wants an adapter that is not there"
        contexts = [self._context(batch, row) for row in range(len(batch.tokens))]
        return FakeStep([successor(contexts[row]) for row in batch.outputs])

    def _context(self, batch: Batch, row: int) -> list[int]:
        """The tokens that the cache holds for a row, its own included."""
        context = []
        for position in range(int(batch.positions[row]) + 1):
            block = batch.block_tables[batch.slots[row], position // self.block_tokens]
            found = self._cache.get((int(block), position % self.block_tokens))
            assert found is not None, "a position of the context was never computed"
            assert found[0] == position, "a block holds another position"
            context.append(found[1])
        return context

    def close(self) -> None:
        self.reserved = 0


def expected(prompt: list[int], count: int, *, phases: bool = False) -> list[int]:
    """What greedy generation of ``count`` tokens gives on the fake plan."""
    context, answer = list(prompt), []
    for _ in range(count):
        answer.append(successor(context))
        context.append(answer[-1] + phases)
    return answer
