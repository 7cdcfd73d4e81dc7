"""A step that a plan has lost: all sequences are computed anew, and nobody notices."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shimmy.engine.plan import StepLostError
from shimmy.engine.protocol import Submit
from shimmy.engine.sampling import Chosen, RowSampling
from shimmy.graph.batch import Batch
from tests.unit.engine.fake_plan import FakePlan, expected
from tests.unit.engine.late_plan import LatePlan, LateStep
from tests.unit.engine.test_run_ahead import GREEDY, PENALISED, PROMPT, finish, make_engine, tokens_of


class LostStep(LateStep):
    """It leaves a cache behind in which nothing is right any more."""

    def chosen(self) -> list[Chosen]:
        super().chosen()
        fake = self._plan._plan
        assert isinstance(fake, FakePlan)
        fake._cache = {key: (position, token + 1) for key, (position, token) in fake._cache.items()}
        raise StepLostError("lost.")


class LosingPlan(LatePlan):
    def __init__(self, plan: FakePlan, ahead: int, lost: Sequence[int]) -> None:
        super().__init__(plan, ahead)
        self._lost = lost
        self._submitted = 0

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> LateStep:
        step = super().submit(batch, sampling)
        if self._submitted in self._lost:
            step.__class__ = LostStep
        self._submitted += 1
        return step


@pytest.mark.parametrize("lost", [[0], [1, 2], [5], [6, 9, 10, 11]], ids=str)
@pytest.mark.parametrize("ahead", [1, 3])
def test_answers_are_those_of_a_plan_that_loses_nothing(ahead: int, lost: list[int]) -> None:
    engine = make_engine(LosingPlan(FakePlan(), ahead, lost), kept_blocks=32)
    engine.submit(Submit(1, PROMPT, 12, GREEDY))
    engine.submit(Submit(2, PROMPT[:9], 20, PENALISED))
    engine.submit(Submit(3, PROMPT[:21], 3, GREEDY))
    events = finish(engine)
    for number, (prompt, count) in {1: (PROMPT, 12), 2: (PROMPT[:9], 20), 3: (PROMPT[:21], 3)}.items():
        assert tokens_of(events[number]) == expected(prompt, count)
        assert [event.finish for event in events[number]] == [None] * (count - 1) + ["length"]


def test_a_request_that_ends_while_its_last_step_is_lost_leaves_nothing_behind() -> None:
    engine = make_engine(LosingPlan(FakePlan(), 3, [3]))
    engine.submit(Submit(1, PROMPT, 10, GREEDY))
    engine.step()
    engine.cancel(1)
    assert engine.idle
    engine.submit(Submit(2, PROMPT, 4, GREEDY))
    assert tokens_of(finish(engine)[2]) == expected(PROMPT, 4)
    engine.close()
