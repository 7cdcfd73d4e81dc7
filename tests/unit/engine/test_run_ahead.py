"""Steps in flight and phases of rows: every request gets the events it gets one step at a time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.engine.engine import Engine
from shimmy.engine.protocol import Sampling, Submit, TokenEvent
from tests.backend.harness import LIMITS, compile_model
from tests.unit.engine.fake_plan import VOCABULARY, FakePlan, expected
from tests.unit.engine.late_plan import LatePlan
from tests.zoo import model_path

GREEDY = Sampling(temperature=0.0)
#: Such a row's token is chosen where penalties are: it waits for the one before.
PENALISED = Sampling(temperature=0.0, repeat_penalty=1.3)
PROMPT = list(range(1, 24))


def make_engine(plan: LatePlan, **limits: int) -> Engine:
    limits = {"context": 64, "kv_blocks": 64, "max_sequences": 8, "step_tokens": 16} | limits
    return Engine(plan, vocabulary=VOCABULARY, adapter_places=2, **limits)


def finish(engine: Engine) -> dict[int, list[TokenEvent]]:
    events: dict[int, list[TokenEvent]] = {}
    while not engine.idle:
        for event in engine.step():
            events.setdefault(event.id, []).append(event)
    return events


def tokens_of(events: list[TokenEvent]) -> list[int]:
    return [event.token for event in events if event.token is not None]


def test_a_step_is_submitted_while_the_one_before_is_in_flight() -> None:
    plan = LatePlan(FakePlan(), ahead=3)
    engine = make_engine(plan)
    engine.submit(Submit(1, PROMPT, 10, GREEDY))
    events = finish(engine)[1]
    assert tokens_of(events) == expected(PROMPT, 10)
    assert plan.most_in_flight == 3
    assert plan.unknown == 9  # all but those of the prompt


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_nothing_is_computed_past_max_tokens_or_the_context(ahead: int) -> None:
    for context, count, rows in [(64, 1, 23), (64, 6, 23 + 5), (30, 1000, 29)]:
        fake = FakePlan()
        engine = make_engine(LatePlan(fake, ahead), context=context)
        engine.submit(Submit(1, PROMPT, count, GREEDY))
        events = finish(engine)[1]
        assert tokens_of(events) == expected(PROMPT, min(count, context - len(PROMPT)))
        assert events[-1].finish == "length"
        assert sum(len(step.tokens) for step in fake.steps) == rows


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_what_lies_behind_a_stop_id_is_neither_emitted_nor_shared(ahead: int) -> None:
    fake = FakePlan()
    engine = make_engine(LatePlan(fake, ahead), kept_blocks=32)
    answer = expected(PROMPT, 12)
    end = next(n for n, token in enumerate(answer) if token not in answer[:n] and n >= 5)
    engine.submit(Submit(1, PROMPT, 50, GREEDY, [answer[end]]))
    events = finish(engine)[1]
    assert [event.token for event in events] == [*answer[:end], None]
    assert events[-1].finish == "stop"
    assert engine.stats().kv_blocks_used == 0
    assert engine.stats().kv_blocks_cached == (len(PROMPT) + end) // fake.block_tokens
    assert fake.reserved <= 32


def test_a_request_of_the_same_id_gets_nothing_of_the_one_before() -> None:
    engine = make_engine(LatePlan(FakePlan(), ahead=3))
    engine.submit(Submit(1, PROMPT, 50, GREEDY))
    engine.submit(Submit(2, [7], 30, GREEDY))
    for _ in range(5):
        engine.step()
    engine.cancel(1)
    engine.submit(Submit(1, [3, 4], 4, GREEDY))
    events = finish(engine)
    assert tokens_of(events[1]) == expected([3, 4], 4)
    assert tokens_of(events[2]) == expected([7], 30)[-len(events[2]) :]


def test_cancelling_the_last_request_waits_for_what_is_in_flight() -> None:
    fake = FakePlan()
    plan = LatePlan(fake, ahead=3)
    engine = make_engine(plan)
    engine.submit(Submit(1, PROMPT, 50, GREEDY))
    for _ in range(4):
        engine.step()
    engine.cancel(1)
    assert engine.idle
    assert engine.step() == []
    assert fake.reserved == 0
    engine.close()


def test_memory_is_given_back_once_no_step_in_flight_uses_it() -> None:
    fake = FakePlan()
    engine = make_engine(LatePlan(fake, ahead=2), step_tokens=64)
    engine.submit(Submit(1, [9], 30, GREEDY))
    engine.submit(Submit(2, list(range(40)), 20, GREEDY))
    for _ in range(3):
        engine.step()
    assert fake.reserved >= 11
    engine.cancel(2)  # LatePlan objects if its blocks go now
    assert fake.reserved >= 11
    engine.step()
    engine.step()
    assert fake.reserved <= 5
    engine.cancel(1)


def test_closing_in_the_middle_waits_too() -> None:
    engine = make_engine(LatePlan(FakePlan(), ahead=2))
    engine.submit(Submit(1, PROMPT, 50, GREEDY))
    engine.step()
    engine.close()


def test_a_row_that_needs_its_token_waits_while_others_run_ahead() -> None:
    fake = FakePlan()
    plan = LatePlan(fake, ahead=2)
    engine = make_engine(plan)
    engine.submit(Submit(1, [1, 2, 3], 8, PENALISED))
    engine.submit(Submit(2, [4, 5], 20, GREEDY))
    events = finish(engine)
    assert tokens_of(events[1]) == expected([1, 2, 3], 8)
    assert tokens_of(events[2]) == expected([4, 5], 20)
    assert plan.unknown == 19
    assert [step.generated for step in fake.steps[:5]] == [0, 1, 2, 1, 2]


def test_adapters_go_with_the_last_step_that_was_submitted_with_them() -> None:
    fake = FakePlan()
    engine = make_engine(LatePlan(fake, ahead=3))
    engine.adapters.put(7, {})
    answer = expected(PROMPT, 4)
    engine.submit(Submit(1, PROMPT, 50, GREEDY, [answer[3]], adapters=[(7, 1.0)]))
    engine.submit(Submit(2, [9], 30, GREEDY))
    for _ in range(3):
        engine.step()
    engine.adapters.forget(7)
    assert list(fake.adapters) == [0]
    events = finish(engine)
    assert events[1][-1].finish == "stop"
    assert not fake.adapters
    assert tokens_of(events[2])[-1] == expected([9], 30)[-1]


def test_preempted_with_a_token_in_flight() -> None:
    """Three sequences outgrow the blocks: one gives its own back while a step of it is in flight."""
    fake = FakePlan()
    plan = LatePlan(fake, ahead=3)
    engine = make_engine(plan, kv_blocks=10, context=32)
    prompts = {n: [n] * 6 for n in range(1, 4)}
    for number, prompt in prompts.items():
        engine.submit(Submit(number, prompt, 20, GREEDY))
    events = finish(engine)
    assert {n: tokens_of(e) for n, e in events.items()} == {n: expected(p, 20) for n, p in prompts.items()}
    assert sum(len(step.tokens) for step in fake.steps) > 3 * 25  # some was computed again
    assert fake.most_reserved <= 10


def test_tokens_that_are_computed_again_keep_their_phase() -> None:
    fake = FakePlan(phases=True)
    engine = make_engine(LatePlan(fake, ahead=1), kv_blocks=10, context=32)
    prompts = {n: [n] * 6 for n in range(1, 4)}
    for number, prompt in prompts.items():
        engine.submit(Submit(number, prompt, 20, GREEDY))
    events = finish(engine)
    for number, prompt in prompts.items():
        assert tokens_of(events[number]) == expected(prompt, 20, phases=True)
    replayed = [step for step in fake.steps if len(step.outputs) < step.generated]
    assert replayed  # rows without output, one per step


@pytest.mark.parametrize(("phases", "reused"), [(False, 32), (True, 20)])
def test_an_answer_is_reused_as_part_of_a_prompt_only_if_phases_are_alike(phases: bool, reused: int) -> None:
    engine = make_engine(LatePlan(FakePlan(phases=phases), ahead=2), kept_blocks=32)
    engine.submit(Submit(1, PROMPT, 10, GREEDY))
    answer = tokens_of(finish(engine)[1])
    assert answer == expected(PROMPT, 10, phases=phases)
    again = [*PROMPT, *answer, 5, 6]
    engine.submit(Submit(2, again, 3, GREEDY))
    events = finish(engine)[2]
    assert tokens_of(events) == expected(again, 3, phases=phases)
    assert events[0].reused == reused


@dataclass(frozen=True)
class Arrival:
    """A request, the steps before it, and the steps after which it is cancelled."""

    wait: int
    prompt: tuple[int, ...]
    count: int
    waits: bool
    stops: bool
    cancelled: int | None


arrivals = st.lists(
    st.builds(
        Arrival,
        wait=st.integers(0, 6),
        # Few beginnings, so that blocks are shared.
        prompt=st.builds(
            lambda start, length, end: (*range(start, start + length), *end),
            st.integers(0, 1),
            st.integers(1, 26),
            st.lists(st.integers(0, VOCABULARY - 1), max_size=3),
        ),
        count=st.integers(1, 14),
        waits=st.booleans(),
        stops=st.booleans(),
        cancelled=st.none() | st.integers(0, 12),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=150, deadline=None)
@given(arrivals, st.integers(1, 4), st.booleans(), st.sampled_from([0, 5, 12]), st.integers(10, 30))
def test_random_traffic(
    arriving: list[Arrival], ahead: int, phases: bool, kept_blocks: int, kv_blocks: int
) -> None:
    fake = FakePlan(phases=phases)
    engine = make_engine(
        LatePlan(fake, ahead), context=40, kv_blocks=kv_blocks, kept_blocks=kept_blocks, step_tokens=9,
        max_sequences=5,
    )  # fmt: skip
    got: dict[int, list[TokenEvent]] = {n: [] for n in range(len(arriving))}
    ends: dict[int, int] = {}
    number = clock = 0
    due = arriving[0].wait
    while number < len(arriving) or not engine.idle:
        while number < len(arriving) and (clock >= due or engine.idle):
            a = arriving[number]
            stop = expected([*a.prompt], 8, phases=phases)[-1:] if a.stops else []
            engine.submit(Submit(number, [*a.prompt], a.count, PENALISED if a.waits else GREEDY, stop))
            if a.cancelled is not None:
                ends[number] = clock + a.cancelled
            number += 1
            due = clock + (arriving[number].wait if number < len(arriving) else 0)
        for victim in [n for n, when in ends.items() if when == clock]:
            engine.cancel(victim)
        for event in engine.step():
            got[event.id].append(event)
        clock += 1
        assert clock < 3000
    for n, a in enumerate(arriving):
        answer: list[int | None] = [*expected([*a.prompt], min(a.count, 40 - len(a.prompt)), phases=phases)]
        end = "length"
        if a.stops and (stop_id := expected([*a.prompt], 8, phases=phases)[-1]) in answer:
            answer, end = [*answer[: answer.index(stop_id)], None], "stop"
        found = [event.token for event in got[n]]
        assert found == (answer if n not in ends else answer[: len(found)])
        if len(found) == len(answer):
            assert [event.finish for event in got[n]] == [None] * (len(answer) - 1) + [end]
    assert engine.stats().kv_blocks_used == 0
    assert fake.most_reserved <= kv_blocks
    assert fake.reserved <= kept_blocks
    engine.close()


@pytest.mark.parametrize("ahead", [2, 3])
def test_the_reference_engine_gives_the_same_events_ahead(ahead: int) -> None:
    """Greedy, sampled, penalised and with log-probabilities, in few blocks, on a model."""
    ways = [
        GREEDY,
        Sampling(temperature=0.8, top_p=0.9, seed=5),
        Sampling(temperature=1.2, top_k=30, seed=6, repeat_penalty=1.2, frequency_penalty=0.3),
        Sampling(temperature=0.0, logprobs=2),
    ]

    def events(ahead: int) -> dict[int, list[TokenEvent]]:
        plan = LatePlan(compile_model("reference", model_path("llama_spm.f16"), LIMITS), ahead)
        engine = Engine(
            plan, context=96, vocabulary=2048, kv_blocks=4, max_sequences=3, step_tokens=24, kept_blocks=2
        )
        for number in range(8):
            prompt = [1, *range(40 + number, 45 + 4 * number)]
            engine.submit(Submit(number, prompt, 16, ways[number % 4], stop_ids=[2]))
        found = finish(engine)
        engine.close()
        assert plan.unknown == 0 if ahead == 1 else plan.unknown > 40
        return found

    assert events(ahead) == events(1)
