"""The one definition of sampling: logits and parameters to a token, the same bits on every engine.

Order: logit_bias, repeat/presence/frequency penalties, temperature, top_k, top_p, min_p, draw.

Scores are F32. What follows is integers, so that no engine's exp or order of additions matters. A score
lies ``(largest - score) * (65536 log2(e) / temperature)`` steps below the largest: one subtraction and one
product in F32, rounded towards zero to an integer. Its *weight* is 2^31 * 2^(-steps / 65536), by a table
and a shift: an integer, 2^31 for the largest score. So a probability is right within 1.1e-5 of itself and
2^-31 of the largest one. What is less than that is lost, all together less than vocabulary * 2^-31.

- top_k keeps the largest scores, of equal ones the lower ids.
- top_p keeps the fewest steps, of equal ones the lower ids: as few as reach ``top_p`` of the sum of weights.
- min_p keeps the weights of at least ``min_p`` of 2^31.
- The draw takes the first id at which the running sum of weights, in order of id, exceeds
  floor(word * sum / 2^32). The word depends on (seed, index of the generated token) alone: a counter-based
  generator (Philox4x32-10, Salmon et al. 2011), so no state travels and any engine can repeat it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.protocol import Sampling

#: Below it the likeliest token is taken: F32 would tell no others from impossible ones.
LEAST_TEMPERATURE = 1e-5
#: Steps to half the weight, as a power of two.
STEP_BITS = 16
#: The weight of the largest score, as a power of two.
WEIGHT_BITS = 31
#: From so many steps on the weight is 0.
STEPS = (WEIGHT_BITS + 1) << STEP_BITS
#: Places of which the sum is taken before any running sum.
_PART = 256
#: Scores whose steps stay in a cache; large arrays also cost a page fault for every 1024 of them.
_CACHED = 16384
#: Steps of a bin, as a power of two, when the least of the kept weights is looked for.
_BIN_BITS = 10
_MASK = 0xFFFFFFFF
F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cuts:
    """What becomes of a row's scores, in numbers that every engine computes with."""

    scale: np.float32
    """Steps per unit of score; 0: the largest score is taken."""
    top_k: int
    """How many scores are kept; 0: all."""
    top_p: int
    """The share of the sum of weights that is kept, in 2^-32; 2^32: all."""
    min_weight: int
    word: int
    """32 random bits."""

    @classmethod
    def of(cls, params: Sampling, index: int) -> Cuts:
        """For the generated token ``index``."""
        scale = np.float32(0.0)
        if params.temperature >= LEAST_TEMPERATURE:
            # By a power of two, so that it is rounded as without.
            scale = np.float32(math.log2(math.e) / params.temperature) * np.float32(1 << STEP_BITS)
        return cls(
            scale=scale,
            top_k=params.top_k,
            top_p=round(params.top_p * 2**32),
            min_weight=math.ceil(params.min_p * 2**WEIGHT_BITS),
            word=philox(params.seed, index),
        )


@dataclass(frozen=True, slots=True)
class RowSampling:
    """How one row's next token is chosen.

    ``prompt`` and ``generated`` count each token's occurrences so far; ``index`` is the number of
    tokens generated before this one.
    """

    params: Sampling
    index: int
    prompt: Mapping[int, int]
    generated: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sampled token of one output row, and log-probabilities if they were asked for."""

    token: int
    """The id; negative when the logits are not numbers."""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """(token, log-probability), most probable first."""


def philox(seed: int, index: int) -> int:
    """First 32-bit word of Philox4x32-10 with key = seed (64 bits) and counter = (index, 0, 0, 0)."""
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    c0, c1, c2, c3 = index & _MASK, (index >> 32) & _MASK, 0, 0
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ key0, p1 & _MASK, (p0 >> 32) ^ c3 ^ key1, p0 & _MASK
        key0, key1 = (key0 + 0x9E3779B9) & _MASK, (key1 + 0xBB67AE85) & _MASK
    return c0


@cache
def powers() -> U32:
    """(65536,) the weights of the steps to half the weight: floor(a * b / 2^31) of two tables of 256."""
    high = [round(2 ** (WEIGHT_BITS - i / 256)) for i in range(256)]
    low = [round(2 ** (WEIGHT_BITS - i / 65536)) for i in range(256)]
    products: NDArray[np.uint64] = np.multiply.outer(np.array(high, np.uint64), np.array(low, np.uint64))
    return (products >> np.uint64(WEIGHT_BITS)).astype(np.uint32).ravel()


def choose(logits: F32, row: RowSampling) -> Chosen:
    """The token after this row, (vocabulary,) logits; log-probabilities are those of the raw logits."""
    p = row.params
    scores = _penalised(logits, row)
    best_id = int(np.argmax(scores))
    if not np.isfinite(scores[best_id]):  # argmax stops at the first NaN
        return Chosen(-1)
    greedy = p.temperature < LEAST_TEMPERATURE
    token = best_id if greedy else _draw(scores, scores[best_id], Cuts.of(p, row.index))
    if p.logprobs is None:
        return Chosen(token)
    logprobs = log_softmax(logits)
    best = _largest(logprobs, p.logprobs)
    top = tuple((int(i), float(logprobs[i])) for i in best)
    return Chosen(token, float(logprobs[token]), top)


def log_softmax(logits: F32) -> F32:
    """(vocabulary,) logits to log-probabilities, the sum in F64."""
    shifted: F32 = logits - logits.max()
    total = float(np.log(np.exp(shifted).sum(dtype=np.float64)))
    return shifted - np.float32(total)


def _penalised(logits: F32, row: RowSampling) -> F32:
    p = row.params
    repeats = p.repeat_penalty != 1.0
    if not (p.logit_bias or repeats or p.presence_penalty or p.frequency_penalty):
        return logits
    scores = logits.copy()
    if p.logit_bias:
        ids = np.fromiter(p.logit_bias.keys(), np.int64)
        scores[ids] += np.fromiter(p.logit_bias.values(), np.float32)
    if repeats and (seen := row.prompt.keys() | row.generated.keys()):
        # Keskar et al. 2019 (CTRL): positive scores are divided, negative ones multiplied.
        ids = np.fromiter(seen, np.int64)
        s = scores[ids]
        penalty = np.float32(p.repeat_penalty)
        scores[ids] = np.where(s > 0, s / penalty, s * penalty)
    if row.generated and (p.presence_penalty or p.frequency_penalty):
        ids = np.fromiter(row.generated.keys(), np.int64)
        counts = np.fromiter(row.generated.values(), np.float32)
        scores[ids] -= np.float32(p.presence_penalty) + np.float32(p.frequency_penalty) * counts
    return scores


def _draw(scores: F32, best: np.float32, cuts: Cuts) -> int:
    ids = None  # all; an array of them would take as long as their weights
    if 0 < cuts.top_k < len(scores):
        ids = np.sort(_largest(scores, cuts.top_k))
        scores = scores[ids]
    weights = _weights(scores, best, cuts.scale)
    if cuts.top_p < 2**32:
        near, target = _near_top(weights, cuts.top_p)
        ids, weights = near if ids is None else ids[near], weights[near]
        weights[~_top(_steps(scores[near], best, cuts.scale), weights, target)] = 0
    if cuts.min_weight:
        weights[weights < cuts.min_weight] = 0
    position = _drawn(weights, cuts.word)
    return position if ids is None else int(ids[position])


def _steps(scores: F32, best: np.float32, scale: np.float32) -> U32:
    """How far scores are below ``best``, at most STEPS."""
    with np.errstate(over="ignore"):  # infinitely many steps are many
        steps = best - scores
        steps *= scale
    whole: U32 = np.minimum(steps, np.float32(STEPS), out=steps).astype(np.uint32)
    return whole


def _weights(scores: F32, best: np.float32, scale: np.float32) -> U32:
    """2^31 for ``best`` and less for lower scores; 0 for -inf."""
    weights = np.empty(len(scores), np.uint32)
    for start in range(0, len(scores), _CACHED):
        part = weights[start : start + _CACHED]
        steps = _steps(scores[start : start + _CACHED], best, scale)
        powers().take(steps & ((1 << STEP_BITS) - 1), out=part, mode="clip")
        part >>= steps >> STEP_BITS  # by 32: 0
    return weights


def _near_top(weights: U32, share: int) -> tuple[I64, int]:
    """Places among which are those of the fewest steps that reach a share of the sum, and that part of it.

    All the others together weigh no more than what need not be reached.
    """
    total = int(weights.sum(dtype=np.int64))
    target = max(-(-total * share >> 32), 1)
    return np.flatnonzero(weights > (total - target) // len(weights)), target


def _top(steps: U32, weights: U32, target: int) -> NDArray[np.bool_]:
    """Which are the fewest steps, as few as have a sum of weights of ``target``.

    Only the last of those are sorted: steps fall into bins. Sums in F64 are exact up to 2^53.
    """
    bins = (steps >> _BIN_BITS).astype(np.intp)
    running = np.cumsum(np.bincount(bins, weights))
    last = int(np.searchsorted(running, target))
    missing = target - (int(running[last - 1]) if last else 0)
    members = np.flatnonzero(bins == last)
    order = members[np.argsort(steps[members], kind="stable")]
    count = int(np.searchsorted(np.cumsum(weights[order], dtype=np.int64), missing)) + 1
    kept: NDArray[np.bool_] = bins < last
    kept[order[:count]] = True
    return kept


def _drawn(weights: U32, word: int) -> int:
    """The first place at which the running sum exceeds ``word`` / 2^32 of the sum."""
    parts = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), _PART), dtype=np.int64))
    at = int(parts[-1]) * word >> 32
    part = int(np.searchsorted(parts, at, side="right"))
    at -= int(parts[part - 1]) if part else 0
    start = part * _PART
    running = np.cumsum(weights[start : start + _PART], dtype=np.int64)
    return start + int(np.searchsorted(running, at, side="right"))


def _largest(values: F32, count: int) -> I64:
    """Indices of the ``count`` largest, best first, ties to the lower index."""
    count = min(count, len(values))
    if count == 0:
        return np.empty(0, np.int64)
    candidates = np.flatnonzero(values >= _lower_bound(values, count))
    near = values[candidates]
    threshold = np.partition(near, len(near) - count)[len(near) - count]
    candidates = candidates[near >= threshold]
    order = np.lexsort((candidates, -values[candidates]))
    best: I64 = candidates[order[:count]]
    return best


def _lower_bound(values: F32, count: int) -> np.float32:
    """What at least ``count`` values reach, found quickly where they are many, and hardly any other does."""
    parts = len(values) // _PART
    if parts < count:
        return np.float32(-np.inf)
    # Each of the largest of a part is one of them.
    most = values[: parts * _PART].reshape(_PART, parts).max(axis=0)
    return np.float32(np.partition(most, parts - count)[parts - count])
