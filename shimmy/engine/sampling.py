"""The one definition of sampling: logits and parameters to a token, the same on every engine.

Order: logit_bias, repeat/presence/frequency penalties, temperature, top_k, top_p, min_p, draw.
Ties go to the lower id. The draw inverts the cumulative probability, in order of token id, at a
uniform number that depends on (seed, index of the generated token) alone: a counter-based
generator (Philox4x32-10, Salmon et al. 2011), so no state travels and any engine can repeat it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.protocol import Sampling

#: Below it the likeliest token is taken: F32 would tell no others from impossible ones.
LEAST_TEMPERATURE = 1e-5
_MASK = 0xFFFFFFFF
F32 = NDArray[np.float32]


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


def uniform(seed: int, index: int) -> np.float32:
    """A multiple of 2^-24 in [0, 1): exact in F32 on every device."""
    return np.float32((philox(seed, index) >> 8) * 2.0**-24)


def choose(logits: F32, row: RowSampling) -> Chosen:
    """The token after this row, (vocabulary,) logits; log-probabilities are those of the raw logits."""
    p = row.params
    scores = _penalised(logits, row)
    best_id = int(np.argmax(scores))
    if not np.isfinite(scores[best_id]):  # argmax stops at the first NaN
        return Chosen(-1)
    token = best_id if p.temperature < LEAST_TEMPERATURE else _draw(scores, row)
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


def _draw(scores: F32, row: RowSampling) -> int:
    p = row.params
    ids = _largest(scores, p.top_k) if 0 < p.top_k < len(scores) else None
    kept = scores if ids is None else scores[ids]
    weights = np.exp((kept - kept.max()) / np.float32(p.temperature))
    if p.top_p < 1.0:
        # The smallest set of most probable tokens that reaches top_p; at least one.
        order = np.lexsort((np.arange(len(weights)) if ids is None else ids, -weights))
        reached = np.cumsum(weights[order], dtype=np.float64) - weights[order]
        count = int(np.searchsorted(reached, p.top_p * float(weights.sum(dtype=np.float64)), side="left"))
        order = order[: max(count, 1)]
        ids = order if ids is None else ids[order]
        weights = weights[order]
    if p.min_p > 0.0:
        keep = weights >= np.float32(p.min_p)  # the largest weight is 1
        ids = np.flatnonzero(keep) if ids is None else ids[keep]
        weights = weights[keep]
    if ids is not None:
        by_id = np.argsort(ids)
        ids, weights = ids[by_id], weights[by_id]
    cumulative = np.cumsum(weights, dtype=np.float64)
    at = float(uniform(p.seed, row.index)) * cumulative[-1]
    position = int(np.searchsorted(cumulative, at, side="right"))
    position = min(position, len(weights) - 1)
    return position if ids is None else int(ids[position])


def _largest(values: F32, count: int) -> NDArray[np.int64]:
    """Indices of the ``count`` largest, best first, ties to the lower index."""
    count = min(count, len(values))
    if count == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    candidates = np.flatnonzero(values >= threshold)
    order = np.lexsort((candidates, -values[candidates]))
    return candidates[order[:count]].astype(np.int64)
