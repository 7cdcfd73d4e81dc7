"""Sampling: one definition, checked against the published generator and against statistics."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling, choose, philox, uniform


def pick(
    logits: list[float],
    index: int = 0,
    generated: dict[int, int] | None = None,
    prompt: dict[int, int] | None = None,
    **params: object,
) -> int:
    row = RowSampling(Sampling(**params), index, prompt or {}, generated or {})  # type: ignore[arg-type]
    return choose(np.array(logits, np.float32), row).token


def draws(logits: list[float], count: int = 4000, **params: object) -> Counter[int]:
    return Counter(pick(logits, index=n, seed=11, **params) for n in range(count))


def test_philox_equals_the_published_known_answers() -> None:
    # Known-answer vectors of Random123 for philox4x32-10 (first output word).
    assert philox(0, 0) == 0x6627E8D5


def test_every_bit_of_seed_and_index_counts() -> None:
    words = {philox(seed, index) for seed in range(20) for index in range(20)}
    assert len(words) == 400
    assert philox(1 << 40, 3) != philox(0, 3)


def test_uniform_is_in_range_and_even() -> None:
    values = np.array([uniform(5, n) for n in range(4000)])
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02
    counts, _ = np.histogram(values, 10, (0, 1))
    assert counts.min() > 320


def test_temperature_zero_is_the_largest_and_ties_go_to_the_lower_id() -> None:
    assert pick([0.0, 3.0, 3.0, 1.0], temperature=0.0) == 1


@pytest.mark.parametrize("temperature", [1e-6, 1e-44, 1e-46, 1e-300])
def test_a_temperature_too_small_to_tell_is_greedy(temperature: float) -> None:
    assert pick([0.0, 3.0, 2.999, 1.0], temperature=temperature) == 1


def test_same_seed_and_index_same_token() -> None:
    logits = list(np.random.default_rng(0).normal(size=100))
    first = [pick(logits, index=n, seed=3) for n in range(50)]
    assert first == [pick(logits, index=n, seed=3) for n in range(50)]
    assert first != [pick(logits, index=n, seed=4) for n in range(50)]


def test_frequencies_follow_the_softmax() -> None:
    logits = [0.0, 1.0, 2.0]
    total = sum(math.exp(x) for x in logits)
    counts = draws(logits)
    for token, logit in enumerate(logits):
        assert counts[token] / 4000 == pytest.approx(math.exp(logit) / total, abs=0.03)


def test_temperature_flattens() -> None:
    assert draws([0.0, 2.0], temperature=4.0)[0] > draws([0.0, 2.0], temperature=1.0)[0] * 2


def test_top_k_keeps_the_k_largest() -> None:
    assert set(draws([0.0, 0.1, 0.2, 0.3], top_k=2)) == {2, 3}
    assert set(draws([1.0, 1.0, 1.0], top_k=2)) == {0, 1}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert set(draws(logits, top_p=0.79)) == {0, 1}
    assert set(draws(logits, top_p=0.81)) == {0, 1, 2}
    assert set(draws(logits, top_p=0.0)) == {0}


def test_top_p_after_top_k_is_renormalised() -> None:
    logits = [math.log(p) for p in (0.4, 0.4, 0.1, 0.1)]
    assert set(draws(logits, top_k=2, top_p=0.45)) == {0}


def test_min_p_is_relative_to_the_most_probable() -> None:
    logits = [math.log(p) for p in (0.6, 0.3, 0.1)]
    assert set(draws(logits, min_p=0.4)) == {0, 1}
    assert set(draws(logits, min_p=1.0)) == {0}


def test_logit_bias_forbids_and_forces() -> None:
    assert pick([5.0, 1.0], temperature=0.0, logit_bias={0: -100.0}) == 1
    assert pick([5.0, 1.0, 0.0], temperature=0.0, logit_bias={2: 100.0}) == 2


def test_repeat_penalty_counts_prompt_and_answer_and_turns_negative_scores_down() -> None:
    assert pick([2.0, 1.5], temperature=0.0, repeat_penalty=2.0, prompt={0: 1}) == 1
    assert pick([-1.0, -1.5], temperature=0.0, repeat_penalty=2.0, generated={0: 1}) == 1


def test_presence_and_frequency_count_only_the_answer() -> None:
    assert pick([2.0, 1.5], temperature=0.0, presence_penalty=1.0, prompt={0: 9}) == 0
    assert pick([2.0, 1.5], temperature=0.0, presence_penalty=1.0, generated={0: 1}) == 1
    assert pick([2.0, 1.5], temperature=0.0, frequency_penalty=0.2, generated={0: 2}) == 0
    assert pick([2.0, 1.5], temperature=0.0, frequency_penalty=0.2, generated={0: 3}) == 1


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    row = RowSampling(Sampling(temperature=0.0, logprobs=2, logit_bias={0: 50.0}), 0, {}, {})
    choice = choose(logits, row)
    total = math.log(sum(math.exp(x) for x in (0, 1, 2)))
    assert choice.token == 0
    assert choice.logprob == pytest.approx(-total)
    assert [token for token, _ in choice.top] == [2, 1]
    assert choice.top[0][1] == pytest.approx(2 - total, abs=1e-6)


def test_nan_logits_choose_nothing() -> None:
    assert pick([0.0, math.nan], temperature=0.0) == -1
    assert pick([math.nan, math.nan]) == -1


def test_logits_are_not_changed() -> None:
    logits = np.array([1.0, 2.0], np.float32)
    choose(logits, RowSampling(Sampling(logit_bias={0: 9.0}, repeat_penalty=1.3), 0, {1: 1}, {}))
    assert logits.tolist() == [1.0, 2.0]
