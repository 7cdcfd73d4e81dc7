"""The engine and its scheduler on a plan that checks every batch it is given."""

from __future__ import annotations

import random

import pytest

from shimmy.engine.blocks import BlockPool
from shimmy.engine.engine import Engine
from shimmy.engine.protocol import Sampling, Submit
from shimmy.engine.scheduler import share_out
from shimmy.errors import ContextLengthError, OutOfMemoryError, RequestError
from tests.unit.engine.fake_plan import VOCABULARY, FakePlan, expected, successor


def make_engine(
    plan: FakePlan | None = None,
    *,
    context: int = 64,
    kv_blocks: int = 64,
    max_sequences: int = 8,
    step_tokens: int = 16,
) -> Engine:
    return Engine(
        plan or FakePlan(),
        context=context,
        vocabulary=VOCABULARY,
        kv_blocks=kv_blocks,
        max_sequences=max_sequences,
        step_tokens=step_tokens,
    )


def submit(engine: Engine, number: int, tokens: list[int], count: int, stop: tuple[int, ...] = ()) -> None:
    engine.submit(Submit(number, tokens, count, Sampling(temperature=0.0), list(stop)))


def run(engine: Engine, limit: int = 10_000) -> tuple[dict[int, list[int]], dict[int, str]]:
    """Step until idle: tokens and finish reason of each request."""
    tokens: dict[int, list[int]] = {}
    finishes: dict[int, str] = {}
    for _ in range(limit):
        if engine.idle:
            return tokens, finishes
        for event in engine.step():
            if event.token is not None:
                tokens.setdefault(event.id, []).append(event.token)
            if event.finish:
                assert event.id not in finishes
                finishes[event.id] = event.finish
    raise AssertionError("the engine did not come to rest")


def test_one_request_generates_its_tokens_and_ends_by_length() -> None:
    engine = make_engine()
    submit(engine, 1, [1, 2, 3], 5)
    tokens, finishes = run(engine)
    assert tokens == {1: expected([1, 2, 3], 5)}
    assert finishes == {1: "length"}


def test_long_prompt_is_computed_in_chunks_of_a_step() -> None:
    plan = FakePlan()
    engine = make_engine(plan, step_tokens=16)
    prompt = [n % VOCABULARY for n in range(40)]
    submit(engine, 1, prompt, 2)
    tokens, _ = run(engine)
    assert tokens[1] == expected(prompt, 2)
    assert [len(batch.tokens) for batch in plan.steps] == [16, 16, 8, 1]
    assert [len(batch.outputs) for batch in plan.steps] == [0, 0, 1, 1]


def test_decoding_goes_on_while_a_prompt_is_computed() -> None:
    plan = FakePlan()
    engine = make_engine(plan, step_tokens=8)
    submit(engine, 1, [5], 20)
    engine.step()
    submit(engine, 2, list(range(30)), 1)
    engine.step()
    assert plan.steps[-1].slots.tolist() == [0] + [1] * 7
    tokens, _ = run(engine)
    assert tokens[2] == expected(list(range(30)), 1)


def test_a_short_prompt_does_not_wait_for_a_long_one_before_it() -> None:
    engine = make_engine(context=64, step_tokens=8)
    submit(engine, 1, [n % VOCABULARY for n in range(60)], 1)
    engine.step()
    submit(engine, 2, [9, 9], 1)
    events = engine.step()
    assert [event.id for event in events] == [2]
    tokens, _ = run(engine)
    assert tokens[1] == expected([n % VOCABULARY for n in range(60)], 1)


@pytest.mark.parametrize(
    ("pending", "budget", "counts"),
    [
        ([], 128, []),
        ([500], 128, [128]),
        ([50], 128, [50]),
        ([500, 20], 128, [108, 20]),
        ([500, 500], 128, [96, 32]),
        ([500, 500, 20], 128, [96, 12, 20]),
        ([10, 500], 128, [10, 118]),
        ([500, 9], 3, [3, 0]),
    ],
)
def test_the_oldest_prompt_gets_most_and_the_shortest_others_the_rest(
    pending: list[int], budget: int, counts: list[int]
) -> None:
    assert share_out(pending, budget) == counts


def test_stop_id_ends_a_request_and_is_not_emitted() -> None:
    engine = make_engine()
    answer = expected([1, 2, 3], 6)
    submit(engine, 1, [1, 2, 3], 50, stop=(answer[4],))
    first = answer.index(answer[4])
    tokens, finishes = run(engine)
    assert tokens[1] == answer[:first]
    assert finishes == {1: "stop"}


def test_context_ends_a_request_that_fills_it() -> None:
    engine = make_engine(context=10)
    submit(engine, 1, [1, 2, 3], 1000)
    tokens, finishes = run(engine)
    assert len(tokens[1]) == 7
    assert finishes == {1: "length"}


@pytest.mark.parametrize(
    ("tokens", "error", "words"),
    [
        ([], RequestError, "no tokens"),
        (list(range(10)), ContextLengthError, "10 tokens, the context holds 10"),
        ([1, VOCABULARY], RequestError, f"token id {VOCABULARY}"),
        ([-1], RequestError, "token id -1"),
    ],
)
def test_requests_that_can_never_run_are_refused(
    tokens: list[int], error: type[Exception], words: str
) -> None:
    engine = make_engine(context=10)
    with pytest.raises(error, match=words):
        submit(engine, 1, tokens, 5)
    assert engine.idle


def test_cancel_takes_effect_before_the_next_step_and_frees_blocks() -> None:
    plan = FakePlan()
    engine = make_engine(plan)
    submit(engine, 1, list(range(20)), 40)
    submit(engine, 2, [1], 3)
    engine.step()
    engine.cancel(1)
    tokens, _ = run(engine)
    assert set(tokens) == {2}
    assert engine.stats().kv_blocks_used == 0
    engine.cancel(1)  # of a request that is gone: nothing


def test_cancelled_while_its_prompt_is_computed() -> None:
    plan = FakePlan()
    engine = make_engine(plan, step_tokens=4, max_sequences=4)
    submit(engine, 1, list(range(40)), 4)
    engine.step()
    engine.cancel(1)
    assert engine.idle
    assert engine.step() == []
    assert len(plan.steps) == 1


def test_cache_grows_with_use_and_shrinks_when_idle() -> None:
    plan = FakePlan()
    engine = make_engine(plan)
    submit(engine, 1, [1], 30)
    engine.step()
    assert plan.reserved == 1
    run(engine)
    assert plan.most_reserved == 8  # 31 positions, 4 to a block
    assert plan.reserved == 0


def test_memory_shortage_preempts_and_every_answer_is_still_its_own() -> None:
    plan = FakePlan()
    engine = make_engine(plan, context=32, kv_blocks=10, step_tokens=6, max_sequences=6)
    prompts = {n: [n] * (n + 1) for n in range(1, 7)}
    for number, prompt in prompts.items():
        submit(engine, number, prompt, 20)
    tokens, finishes = run(engine)
    assert tokens == {number: expected(prompt, 20) for number, prompt in prompts.items()}
    assert set(finishes.values()) == {"length"}
    assert plan.most_reserved <= 10


def test_random_traffic_equals_solo_answers() -> None:
    rng = random.Random(7)
    plan = FakePlan()
    engine = make_engine(plan, context=48, kv_blocks=24, step_tokens=9, max_sequences=5)
    wanted: dict[int, list[int]] = {}
    got: dict[int, list[int]] = {}
    cancelled: set[int] = set()
    number = 0
    for _ in range(400):
        if rng.random() < 0.2:
            number += 1
            prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 30))]
            count = rng.randint(1, 17)
            submit(engine, number, prompt, count)
            wanted[number] = expected(prompt, count)
        if rng.random() < 0.05 and number:
            cancelled.add(victim := rng.randint(1, number))
            engine.cancel(victim)
        for event in engine.step():
            if event.token is not None:
                got.setdefault(event.id, []).append(event.token)
    tokens, _ = run(engine)
    for key, more in tokens.items():
        got.setdefault(key, []).extend(more)
    for key, answer in wanted.items():
        if key in cancelled:
            assert answer[: len(got.get(key, []))] == got.get(key, [])
        else:
            assert got[key] == answer
    assert engine.stats().kv_blocks_used == 0


def test_out_of_memory_while_growing_fails_one_request_only() -> None:
    class SmallPlan(FakePlan):
        def reserve(self, blocks: int) -> None:
            if blocks > 4:
                raise OutOfMemoryError("the machine has no more.")
            super().reserve(blocks)

    engine = make_engine(SmallPlan())
    submit(engine, 1, [1], 8)
    submit(engine, 2, list(range(30)), 8)
    tokens, finishes = run(engine)
    assert tokens[1] == expected([1], 8)
    assert finishes == {1: "length", 2: "error"}


def test_block_pool_gives_the_lowest_id_and_forgets_free_ones_at_the_end() -> None:
    pool = BlockPool(5)
    ids = [pool.take() for _ in range(5)]
    assert ids == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        pool.take()
    pool.give_back([1, 4])
    assert (pool.used, pool.high_water, pool.available) == (3, 4, 2)
    assert pool.take() == 1
    pool.give_back([0, 1, 2, 3])
    assert (pool.used, pool.high_water) == (0, 0)


def test_successor_is_not_trivial() -> None:
    assert len(set(expected([1], 40))) > 5
    assert successor([1, 2, 3]) != successor([2, 1, 3])
