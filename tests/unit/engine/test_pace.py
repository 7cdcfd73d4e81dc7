"""Steps shrink while others wait for their next token, on engines too slow for whole ones."""

from __future__ import annotations

import pytest

from shimmy.engine.engine import Engine
from shimmy.engine.pace import LEAST_TOKENS, STEP_SECONDS, Pace
from shimmy.engine.protocol import Sampling, Submit
from tests.unit.engine.fake_plan import VOCABULARY, FakePlan, expected


def test_nothing_is_known_at_first() -> None:
    assert Pace(128).tokens(generating=3) == 128


@pytest.mark.parametrize(("per_second", "tokens"), [(10_000, 128), (400, 80), (40, 2 + LEAST_TOKENS)])
def test_a_step_takes_no_longer_than_it_may(per_second: int, tokens: int) -> None:
    pace = Pace(128)
    pace.observe(100, 100 / per_second)
    assert pace.tokens(generating=2) == tokens
    assert pace.tokens(generating=0) == 128


def test_it_follows_the_machine_and_is_not_misled_by_one_step() -> None:
    pace = Pace(1000)
    pace.observe(100, 100 * STEP_SECONDS / 500)
    pace.observe(100, 100 * STEP_SECONDS / 100)
    assert 200 < pace.tokens(1) < 500
    for _ in range(30):
        pace.observe(100, 100 * STEP_SECONDS / 100)
    assert pace.tokens(1) == 100
    pace.observe(LEAST_TOKENS - 1, 60.0)  # waiting for weights, not for arithmetic
    assert pace.tokens(1) == 100


def test_prompts_beside_a_generation_come_in_smaller_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says each step took 25 ms a token: 200 ms are eight, and the least is more."""
    now = 0.0
    plan = FakePlan()

    class Slow(FakePlan):
        def submit(self, batch, sampling):  # type: ignore[no-untyped-def]
            nonlocal now
            now += 0.025 * len(batch.tokens)
            return plan.submit(batch, sampling)

        def reserve(self, blocks: int) -> None:
            plan.reserve(blocks)

    monkeypatch.setattr("shimmy.engine.engine.perf_counter", lambda: now)
    engine = Engine(Slow(), context=128, vocabulary=VOCABULARY, kv_blocks=64, max_sequences=4, step_tokens=60)
    first, second = list(range(60)), [n % 50 for n in range(100)]
    engine.submit(Submit(1, first, 30, Sampling(temperature=0.0)))
    engine.step()
    engine.submit(Submit(2, second, 3, Sampling(temperature=0.0)))
    answer = []
    while not engine.idle:
        answer += [event.token for event in engine.step() if event.id == 2]
    assert answer == expected(second, 3)
    sizes = [len(step.tokens) for step in plan.steps]
    assert sizes[0] == 60
    assert max(sizes[1:]) == 1 + LEAST_TOKENS
