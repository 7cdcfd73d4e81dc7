"""Sampling: one definition, checked against the published generator and against statistics."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal, localcontext

import numpy as np
import pytest

from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import Cuts, RowSampling, choose, philox, powers


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


def test_words_are_even() -> None:
    values = np.array([philox(5, n) for n in range(4000)]) / 2**32
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


def by_definition(scores: np.ndarray, cuts: Cuts) -> int:
    """The token, by the words of the module's docstring, one number after another."""
    best = scores.max()
    steps = [(best - s) * cuts.scale for s in scores]
    weights = [int(powers()[int(s) & 0xFFFF]) >> (int(s) >> 16) if s < 32 << 16 else 0 for s in steps]
    kept = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: cuts.top_k or None]
    if cuts.top_p < 2**32:
        total = sum(weights[i] for i in kept)
        reached, top = 0, []
        for i in sorted(kept, key=lambda i: (int(min(steps[i], 32 << 16)), i)):
            if top and reached * 2**32 >= cuts.top_p * total:
                break
            reached += weights[i]
            top.append(i)
        kept = top
    kept = sorted(i for i in kept if weights[i] >= cuts.min_weight)
    at = cuts.word * sum(weights[i] for i in kept) >> 32
    for i in kept:
        if at < weights[i]:
            return i
        at -= weights[i]
    raise AssertionError("the sum was reached before")


def test_every_choice_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    seen = Counter()
    for n in range(1500):
        scores = rng.normal(0, rng.choice([0.01, 1, 4, 30]), rng.integers(1, 600)).astype(np.float32)
        if n % 3 == 0:
            scores = np.round(scores * 2) / np.float32(2)  # ties
        if n % 5 == 0:
            scores[rng.random(len(scores)) < 0.3] = -np.inf
            scores[0] = 0
        params = Sampling(
            temperature=float(rng.choice([0.01, 0.3, 1.0, 2.0])),
            top_k=int(rng.choice([0, 1, 2, 17, 5000])),
            top_p=float(rng.choice([0, 1e-9, 0.5, 0.9, 0.9999, 1])),
            min_p=float(rng.choice([0, 1e-6, 0.05, 0.9, 1])),
            seed=n,
        )
        token = choose(scores, RowSampling(params, n, {}, {})).token
        assert token == by_definition(scores, Cuts.of(params, n)), params
        seen[token] += 1
    assert len(seen) > 100


@pytest.mark.parametrize("spread", [0.01, 1, 6])
def test_the_same_with_many_tokens(spread: float) -> None:
    """What cannot be chosen is left out early there."""
    rng = np.random.default_rng(4)
    for n, (top_k, top_p) in enumerate([(0, 0.95), (0, 0.3), (40, 1.0), (78, 0.9), (79, 0.9999), (1, 0.5)]):
        scores = rng.normal(0, spread, 20_123).astype(np.float32)
        scores[rng.integers(0, len(scores), 500)] = scores[:500]  # ties
        params = Sampling(top_k=top_k, top_p=top_p, seed=n)
        token = choose(scores, RowSampling(params, n, {}, {})).token
        assert token == by_definition(scores, Cuts.of(params, n)), params


def test_weights_halve_in_65536_steps() -> None:
    """The table is exact: no entry depends on how a machine rounds powers."""
    assert powers().shape == (65536,)
    assert powers()[0] == 2**31
    with localcontext(prec=40):
        for tables in (range(256), range(0, 65536, 256)):
            for i in tables:
                exact = Decimal(2) ** (31 - Decimal(i) / 65536)
                assert int(powers()[i]) == round(exact)
                assert abs(exact % 1 - Decimal("0.5")) > Decimal("1e-5"), "a hair from rounding otherwise"
    relative = powers() / 2.0 ** (31 - np.arange(65536) / 65536)
    assert abs(relative - 1).max() < 3e-9


def test_probabilities_are_those_of_the_softmax() -> None:
    """Chi-square of 20,000 draws over a vocabulary of 49,152 with rare and likely tokens."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, 49152).astype(np.float32)
    exact = np.exp(logits.astype(np.float64) - logits.max())
    exact /= exact.sum()
    cuts = Cuts.of(Sampling(), 0)
    steps = ((logits.max() - logits) * cuts.scale).astype(np.int64)
    weights = powers()[steps & 0xFFFF].astype(np.int64) >> (steps >> 16)
    found = weights / weights.sum()
    assert abs(found / exact - 1)[weights > 2**12].max() < 2.5e-4
    assert abs(found / exact - 1)[weights > 2**20].max() < 1.1e-5
    assert abs(found - exact).sum() < 49152 / 2**31 + 1.1e-5
    running = np.cumsum(weights)
    drawn = [int(running[-1]) * philox(17, n) >> 32 for n in range(20_000)]
    tokens = np.searchsorted(running, drawn, side="right")
    # Likely tokens are bins of their own, of the others about as many as make up a fortieth.
    order = np.argsort(-exact)
    bins = np.unique((np.cumsum(exact[order]) * 39.999).astype(int), return_inverse=True)[1]
    bin_of = np.empty(len(order), np.int64)
    bin_of[order] = bins
    expected = np.bincount(bins, exact[order]) * len(drawn)
    counts = np.bincount(bin_of[tokens], minlength=len(expected))
    assert expected.min() > 5
    assert len(expected) == 37
    # 36 degrees of freedom: more than this once in 1,000 seeds.
    assert (((counts - expected) ** 2) / expected).sum() < 68.0


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


def test_top_p_is_reached_by_equality_and_of_equal_weights_the_lower_ids_are_kept() -> None:
    assert set(draws([1.0] * 4, top_p=0.5)) == {0, 1}
    assert set(draws([1.0] * 4, top_p=0.5 + 1e-9)) == {0, 1, 2}
    assert set(draws([0.0, 1.0, 1.0, 1.0], top_p=0.5)) == {1, 2}
    assert set(draws([-math.inf, 3.0], top_p=0.9999)) == {1}


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
    assert pick([-math.inf, -math.inf]) == -1
    assert pick([1.0, math.inf]) == -1


def test_impossible_tokens_are_never_chosen() -> None:
    assert set(draws([-math.inf, 0.0, -3.4e38, 3.0, -math.inf], temperature=2.0)) == {1, 3}
    assert pick([5.0]) == 0
    assert pick([3.4e38, -3.4e38]) == 0


def test_logits_are_not_changed() -> None:
    logits = np.array([1.0, 2.0], np.float32)
    choose(logits, RowSampling(Sampling(logit_bias={0: 9.0}, repeat_penalty=1.3), 0, {1: 1}, {}))
    assert logits.tolist() == [1.0, 2.0]
