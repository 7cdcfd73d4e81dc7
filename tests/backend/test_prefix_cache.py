"""A prompt found in the KV cache, wholly or in part, gives the very bits that computing it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shimmy.engine.engine import Engine
from shimmy.engine.plan import Plan, Step
from shimmy.engine.protocol import Sampling, Submit, TokenEvent
from shimmy.engine.sampling import RowSampling
from shimmy.graph.batch import Batch
from tests.backend.harness import F32, LIMITS, compile_model
from tests.zoo import model_path

GREEDY = Sampling(temperature=0.0)


class Watched:
    """A plan of which the last step's logits, and the number of rows so far, are known."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.computed = 0

    def submit(self, batch: Batch, sampling: Sequence[RowSampling]) -> Step:
        step = self._plan.submit(batch, sampling)
        self.computed += len(batch.tokens)
        self.logits = step.logits().copy()
        return step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)


class Recorder:
    """An engine whose every row of logits is kept, by request, along with the events."""

    def __init__(self, plan: Plan, *, kept_blocks: int, kv_blocks: int = 64) -> None:
        plan.reserve(0)
        self._watched = Watched(plan)
        self.engine = Engine(
            self._watched,
            context=256,
            vocabulary=2048,
            kv_blocks=kv_blocks,
            max_sequences=8,
            step_tokens=48,
            kept_blocks=kept_blocks,
        )
        self.rows: dict[int, list[F32]] = {}
        self.events: dict[int, list[TokenEvent]] = {}

    def submit(self, number: int, prompt: list[int], count: int = 4) -> None:
        self.engine.submit(Submit(number, prompt, count, GREEDY))

    def step(self) -> None:
        for row, event in enumerate(self.engine.step()):
            self.rows.setdefault(event.id, []).append(self._watched.logits[row])
            self.events.setdefault(event.id, []).append(event)

    def run(self) -> Recorder:
        while not self.engine.idle:
            self.step()
        return self

    def computed(self) -> int:
        return self._watched.computed

    def reused(self, number: int) -> int:
        return self.events[number][-1].reused


def prompt_of(seed: int, length: int, beginning: list[int] | None = None) -> list[int]:
    rest = np.random.default_rng(seed).integers(3, 2000, length).tolist()
    return (beginning or []) + rest


@pytest.fixture(scope="module", params=["cpu f32", "cpu int8", "reference f32"])
def plan(request: pytest.FixtureRequest) -> Iterator[Plan]:
    backend, precision = request.param.split()
    plan = compile_model(backend, model_path("llama_spm.q4_k_m"), replace(LIMITS, precision=precision))
    yield plan
    plan.close()


@pytest.fixture(scope="module")
def solo(plan: Plan) -> Mapping[tuple[int, ...], list[F32]]:
    """The rows of a prompt's answer, computed alone and without a cache."""

    class Answers(dict[tuple[int, ...], list[F32]]):
        def __missing__(self, prompt: tuple[int, ...]) -> list[F32]:
            recorder = Recorder(plan, kept_blocks=0)
            recorder.submit(0, list(prompt))
            self[prompt] = recorder.run().rows[0]
            return self[prompt]

    return Answers()


Solo = Mapping[tuple[int, ...], list[F32]]


def assert_bits(recorder: Recorder, number: int, expected: list[F32]) -> None:
    found = recorder.rows[number]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def test_hit_or_miss(plan: Plan, solo: Solo) -> None:
    prompt = prompt_of(1, 100)
    asked = [prompt, prompt, prompt[:64], prompt[:65], [*prompt, 7, 8], prompt[:40] + prompt_of(2, 30)]
    expected = [solo[tuple(each)] for each in asked]
    recorder = Recorder(plan, kept_blocks=64)
    for number, each in enumerate(asked):
        recorder.submit(number, each)
        recorder.run()
        assert_bits(recorder, number, expected[number])
    assert [recorder.reused(n) for n in range(len(asked))] == [0, 96, 32, 64, 96, 32]


def test_a_chat_of_several_turns(plan: Plan, solo: Solo) -> None:
    history: list[list[int]] = [prompt_of(5, 50)]
    for turn in range(3):
        recorder = Recorder(plan, kept_blocks=0)
        recorder.submit(0, history[-1], 30)
        answer = [event.token for event in recorder.run().events[0] if event.token is not None]
        history.append([*history[-1], *answer, *prompt_of(turn, 9)])
    expected = [solo[tuple(each)] for each in history]
    recorder = Recorder(plan, kept_blocks=64)
    for number, each in enumerate(history):
        recorder.submit(100 + number, each, 30)
        recorder.run()
        recorder.submit(number, each)
        assert_bits(recorder.run(), number, expected[number])
    # The answer's tokens are found too, though they were computed one by one.
    assert [recorder.reused(100 + n) for n in range(4)] == [0, 64, 96, 128]


def test_eight_at_once_with_one_system_prompt(plan: Plan, solo: Solo) -> None:
    system = prompt_of(9, 70)
    asked = {n: prompt_of(n, 5 + 7 * n, system) for n in range(8)}
    expected = {n: solo[tuple(prompt)] for n, prompt in asked.items()}
    recorder = Recorder(plan, kept_blocks=64)
    for number, prompt in asked.items():
        recorder.submit(number, prompt)
    recorder.run()
    for number in asked:
        assert_bits(recorder, number, expected[number])
    assert sorted(recorder.reused(n) for n in asked) == [0] + [64] * 7
    assert recorder.computed() == sum(len(p) + 3 for p in asked.values()) - 7 * 64


def test_when_blocks_are_short_and_requests_are_cancelled(plan: Plan, solo: Solo) -> None:
    """Eight blocks for prompts of up to four: each step evicts, preempts or shares."""
    systems = [prompt_of(n, 64) for n in (20, 21)]
    asked = {n: prompt_of(n, 3 + 11 * (n % 4), systems[n % 2][: 32 + 16 * (n % 3)]) for n in range(16)}
    expected = {n: solo[tuple(prompt)] for n, prompt in asked.items()}
    recorder = Recorder(plan, kept_blocks=5, kv_blocks=8)
    cancelled = {3, 6, 12}
    for number, prompt in asked.items():
        recorder.submit(number, prompt)
        recorder.step()
        if number in cancelled:
            recorder.engine.cancel(number)
    recorder.run()
    assert recorder.engine.stats().kv_blocks_used == 0
    for number in asked.keys() - cancelled:
        assert_bits(recorder, number, expected[number])
    assert sum(recorder.reused(n) for n in asked.keys() - cancelled) > 0
