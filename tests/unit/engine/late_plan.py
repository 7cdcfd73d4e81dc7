"""A plan with steps in flight, around one that computes at once: steps run when they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Plan, Step
from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import Chosen, RowSampling
from shimmy.graph.batch import Batch


class LateStep:
    def __init__(self, plan: LatePlan, batch: Batch, sampling: Sequence[RowSampling]) -> None:
        self.batch = batch
        self.sampling = sampling
        self.step: Step | None = None
        self._plan = plan

    def chosen(self) -> list[Chosen]:
        while self.step is None:
            self._plan.run_oldest()
        return self.step.chosen()

    def logits(self) -> NDArray[np.float32]:
        raise NotImplementedError


class LatePlan:
    """Resolves tokens in flight as a device would; holds the engine to the rules it has to keep."""

    def __init__(self, plan: Plan, ahead: int) -> None:
        self.ahead = ahead
        self.most_in_flight = 0
        self.unknown = 0
        """Rows that were submitted before their token was known."""
        self._plan = plan
        self._queue: deque[LateStep] = deque()
        self._last: list[Chosen] = []
        self._outputs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def samples_ahead(self, sampling: Sampling) -> bool:
        return sampling.repeat_penalty == 1.0 and sampling.logprobs is None

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> LateStep:
        assert len(self._queue) < self.ahead
        unknown = batch.tokens[batch.tokens < 0]
        assert (-1 - unknown < self._outputs).all(), "a token of no output of the step before"
        self.unknown += len(unknown)
        self._outputs = len(batch.outputs)
        self._queue.append(step := LateStep(self, batch, sampling))
        self.most_in_flight = max(self.most_in_flight, len(self._queue))
        return step

    def run_oldest(self) -> None:
        step = self._queue.popleft()
        tokens = step.batch.tokens.copy()
        for row in np.flatnonzero(tokens < 0):
            tokens[row] = max(self._last[-1 - tokens[row]].token, 0)
        step.step = self._plan.submit(replace(step.batch, tokens=tokens), step.sampling)
        self._last = step.step.chosen()

    def reserve(self, blocks: int) -> None:
        for step in self._queue:
            assert step.batch.block_tables.max() < blocks, "a block of a step in flight is taken away"
        self._plan.reserve(blocks)

    def put_adapter(self, place: int, terms: Any) -> None:
        while self._queue:  # what was submitted before has the adapters of then
            self.run_oldest()
        self._plan.put_adapter(place, terms)

    def close(self) -> None:
        assert not self._queue, "steps in flight when the plan is closed"
        self._plan.close()
