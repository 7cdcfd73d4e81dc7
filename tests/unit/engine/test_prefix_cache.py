"""KV blocks of prompts that begin alike: shared, kept, given up, never mixed up."""

from __future__ import annotations

import random

import pytest

from shimmy.engine.blocks import BlockPool, block_key, root_key
from shimmy.engine.engine import Engine
from shimmy.engine.load import kept_blocks
from shimmy.engine.protocol import Sampling, Submit, TokenEvent
from shimmy.engine.settings import EngineSettings
from tests.unit.engine.fake_plan import VOCABULARY, FakePlan, expected

GREEDY = Sampling(temperature=0.0)
BLOCK = FakePlan.block_tokens


def make_engine(plan: FakePlan, **limits: int) -> Engine:
    limits = {
        "context": 64,
        "kv_blocks": 64,
        "max_sequences": 8,
        "step_tokens": 16,
        "kept_blocks": 32,
    } | limits
    return Engine(plan, vocabulary=VOCABULARY, **limits)


def submit(engine: Engine, number: int, prompt: list[int], count: int = 3, salt: str = "") -> None:
    engine.submit(Submit(number, prompt, count, GREEDY, salt=salt))


def run(engine: Engine) -> dict[int, list[TokenEvent]]:
    """The events of each request, once the engine has come to rest."""
    events: dict[int, list[TokenEvent]] = {}
    while not engine.idle:
        for event in engine.step():
            events.setdefault(event.id, []).append(event)
    return events


def ask(engine: Engine, prompt: list[int], count: int = 3, salt: str = "") -> int:
    """How many tokens of the prompt were reused, the answer being right."""
    submit(engine, 0, prompt, count, salt)
    events = run(engine)[0]
    assert [event.token for event in events] == expected(prompt, count)
    return events[-1].reused


def computed(plan: FakePlan) -> int:
    return sum(len(step.tokens) for step in plan.steps)


PROMPT = list(range(1, 24))


def test_a_prompt_asked_again_is_found_but_for_its_last_block() -> None:
    plan = FakePlan()
    engine = make_engine(plan)
    assert ask(engine, PROMPT) == 0
    plan.steps.clear()
    assert ask(engine, PROMPT) == 20
    assert computed(plan) == 3 + 2
    assert engine.stats().kv_blocks_used == 0
    # 25 tokens were in the cache: the last one sampled was not computed.
    assert engine.stats().kv_blocks_cached == 6


@pytest.mark.parametrize(("length", "found"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (23, 20)])
def test_at_least_one_token_is_computed(length: int, found: int) -> None:
    engine = make_engine(FakePlan())
    ask(engine, PROMPT)
    assert ask(engine, PROMPT[:length]) == found


def test_a_chat_goes_on_behind_its_answer() -> None:
    engine = make_engine(FakePlan())
    ask(engine, PROMPT, 10)
    # 23 tokens and nine of the answer are computed: eight blocks.
    assert ask(engine, PROMPT + expected(PROMPT, 10) + [5, 6]) == 32


def test_what_differs_before_a_block_keeps_it_apart() -> None:
    engine = make_engine(FakePlan())
    ask(engine, PROMPT)
    assert ask(engine, [2, *PROMPT[1:]]) == 0
    assert ask(engine, [*PROMPT[:6], 60, *PROMPT[7:]]) == 4


def test_a_salt_keeps_requests_apart() -> None:
    engine = make_engine(FakePlan())
    assert [ask(engine, PROMPT, salt=salt) for salt in ("", "a", "b", "a", "")] == [0, 0, 0, 20, 20]


def test_switched_off_nothing_is_kept() -> None:
    plan = FakePlan()
    engine = make_engine(plan, kept_blocks=0)
    assert [ask(engine, PROMPT) for _ in range(2)] == [0, 0]
    assert plan.reserved == 0
    assert engine.stats().kv_blocks_cached == 0


def test_eight_at_once_compute_their_common_beginning_once() -> None:
    plan = FakePlan()
    engine = make_engine(plan)
    prompts = {n: [*PROMPT[:20], 40 + n, n] for n in range(8)}
    for number, prompt in prompts.items():
        submit(engine, number, prompt, 4)
    events = run(engine)
    for number, prompt in prompts.items():
        assert [event.token for event in events[number]] == expected(prompt, 4)
    assert computed(plan) == 20 + 8 * (2 + 3)
    assert sorted(events[n][-1].reused for n in prompts) == [0] + [20] * 7


def test_a_prompt_overtakes_itself_where_another_was_before() -> None:
    """Begun blocks too are replaced by those that another has finished in the meantime."""
    plan = FakePlan()
    engine = make_engine(plan, step_tokens=6)
    submit(engine, 1, PROMPT, 2)
    engine.step()
    submit(engine, 2, PROMPT, 2)
    events = run(engine)
    assert events[2][-1].reused == 20
    assert [event.token for event in events[2]] == expected(PROMPT, 2)
    assert computed(plan) == 23 + 3 + 2


def test_cancelled_prompts_leave_what_they_have_computed() -> None:
    engine = make_engine(FakePlan())
    submit(engine, 1, PROMPT)
    engine.step()
    engine.cancel(1)
    assert engine.stats().kv_blocks_used == 0
    assert ask(engine, PROMPT) == 16


def test_a_shared_block_stays_while_anyone_uses_it() -> None:
    engine = make_engine(FakePlan(), kv_blocks=16, kept_blocks=1)
    submit(engine, 1, PROMPT, 20)
    engine.step()
    engine.step()
    submit(engine, 2, PROMPT, 1)
    events = engine.step()
    assert [(event.id, event.reused) for event in events] == [(1, 0), (2, 20)]
    assert engine.stats().kv_blocks_used == 6  # not what 2 has given back
    tokens = [event.token for event in run(engine)[1]]
    assert tokens == expected(PROMPT, 20)[2:]


def test_kept_blocks_are_given_up_for_running_sequences() -> None:
    engine = make_engine(FakePlan(), context=32, kv_blocks=8, kept_blocks=8)
    ask(engine, PROMPT)
    other = [50 + n % 9 for n in range(29)]
    assert ask(engine, other) == 0
    assert ask(engine, other) == 28


def test_the_longest_unused_goes_first_and_the_ends_of_prompts_before_their_beginnings() -> None:
    engine = make_engine(FakePlan(), kv_blocks=32, kept_blocks=12)
    first, second, third = ([n] * 21 for n in (1, 2, 3))
    for prompt in (first, second, first, third):
        ask(engine, prompt, 1)
    # Fifteen full blocks and a begun one in the memory of twelve: four of the second are gone.
    assert [ask(engine, prompt, 1) for prompt in (third, first)] == [20, 20]
    assert ask(engine, second, 1) == 4


def test_an_idle_engine_keeps_no_more_memory_than_it_may() -> None:
    plan = FakePlan()
    engine = make_engine(plan, context=64, kv_blocks=64, kept_blocks=6)
    for number in range(8):
        submit(engine, number, [number] * 16, 12)
    run(engine)
    assert plan.most_reserved >= 48
    assert plan.reserved <= 6
    assert engine.stats().kv_blocks_cached <= 6


def test_random_traffic_equals_solo_answers() -> None:
    """Few prompts in few blocks: every turn shares, evicts, preempts or cancels."""
    rng = random.Random(3)
    plan = FakePlan()
    engine = make_engine(plan, context=48, kv_blocks=24, kept_blocks=9, step_tokens=9, max_sequences=5)
    beginnings = [[rng.randrange(VOCABULARY) for _ in range(30)] for _ in range(3)]
    wanted: dict[int, list[int]] = {}
    got: dict[int, list[int | None]] = {}
    cancelled: set[int] = set()
    reused = 0
    for number in range(600):
        if number % 3 == 0:
            beginning = rng.choice(beginnings)[: rng.randint(1, 30)]
            prompt = beginning + [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 4))]
            wanted[number] = expected(prompt, count := rng.randint(1, 13))
            submit(engine, number, prompt, count)
        if rng.random() < 0.05 and wanted:
            cancelled.add(victim := rng.choice(list(wanted)))
            engine.cancel(victim)
        for event in engine.step():
            got.setdefault(event.id, []).append(event.token)
            reused += event.reused if event.finish else 0
    for number, events in run(engine).items():
        got.setdefault(number, []).extend(event.token for event in events)
    for number, answer in wanted.items():
        found = got.get(number, [])
        assert found == (answer[: len(found)] if number in cancelled else answer)
    assert reused > 500
    assert engine.stats().kv_blocks_used == 0
    assert plan.most_reserved <= 24


def test_keys_follow_everything_before_a_block() -> None:
    root = root_key("")
    assert root_key("x") != root != root_key("", None)
    first = block_key(root, [1, 2, 3, 4], 4)
    assert block_key(root, [1, 2, 3, 5], 4) != first
    assert block_key(root_key("x"), [1, 2, 3, 4], 4) != first
    assert block_key(first, [5, 6, 7, 8], 4) != block_key(root, [5, 6, 7, 8], 4)


def test_the_pool_keeps_one_block_of_a_content() -> None:
    pool = BlockPool(4, keep=2)
    a, b = pool.take(), pool.take()
    assert pool.publish(a, b"k") == a
    assert pool.publish(b, b"k") == a
    assert (pool.used, pool.cached, pool.high_water) == (1, 0, 1)
    pool.give_back([a])
    assert pool.used == 1  # once more for whoever had b
    pool.give_back([a])
    assert (pool.used, pool.cached, pool.available) == (0, 1, 4)
    assert pool.find(b"x") is None
    assert pool.find(b"k") == a
    pool.give_back([a])
    pool.drop_from(0)
    assert pool.find(b"k") is None
    assert pool.high_water == 0


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        (EngineSettings(), 25),
        (EngineSettings(prefix_cache=False), 0),
        (EngineSettings(prefix_cache_memory=5000), 5),
        (EngineSettings(prefix_cache_memory=10), 1),
        (EngineSettings(prefix_cache_memory=1 << 40), 100),
    ],
)
def test_how_much_is_kept(settings: EngineSettings, blocks: int) -> None:
    assert kept_blocks(settings, kv_memory=100_000, block_bytes=1000) == blocks
