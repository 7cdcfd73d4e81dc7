"""How an engine reads a text, beside another: by how much logits, choices and predictions differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Plan
from shimmy.testing.steps import CHUNK, Part, batch_of, rows_of

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Tokens that are read together, from position 0, as perplexities on record are measured.
PIECE = 256


@dataclass(frozen=True, slots=True)
class TextFigures:
    """What differs over a text's tokens."""

    largest: float
    """Largest difference of two logits."""
    divergence: float
    """Mean Kullback-Leibler divergence of the next token's distribution from the expected one, in nats."""
    agreement: float
    """Part of the tokens after which both prefer the same next one."""
    ratio: float
    """Of the perplexities: found to expected."""


def read_text(plan: Plan, ids: Sequence[int], piece: int = PIECE) -> F32:
    """(tokens, vocabulary): logits after each token; the plan holds a piece, and outputs of a chunk."""
    blocks = range(-(-piece // plan.block_tokens))
    plan.reserve(len(blocks))
    rows = []
    for start in range(0, len(ids), piece):
        tokens = ids[start : start + piece]
        parts = [Part(tokens[at : at + CHUNK], at, blocks) for at in range(0, len(tokens), CHUNK)]
        rows += [rows_of(plan, batch_of([part], every_row=True)) for part in parts]
    return np.concatenate(rows)


def perplexity(logits: F32, ids: Sequence[int], piece: int = PIECE) -> float:
    """Of a text by the logits after its tokens; the first token of each piece is not predicted."""
    known = [at for at in range(len(ids) - 1) if (at + 1) % piece]
    logs = _log_probabilities(logits[known])
    return exp(-float(logs[range(len(known)), [ids[at + 1] for at in known]].mean()))


def differences(found: F32, expected: F32, ids: Sequence[int], piece: int = PIECE) -> TextFigures:
    """One reading of a text beside another."""
    divergence = 0.0
    # A piece at a time: vocabularies may be large.
    for start in range(0, len(ids), piece):
        rows = slice(start, start + piece)
        logs, judged = _log_probabilities(found[rows]), _log_probabilities(expected[rows])
        divergence += float((np.exp(judged) * (judged - logs)).sum())
    return TextFigures(
        largest=float(np.abs(found - expected).max()),
        divergence=divergence / len(ids),
        agreement=float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        ratio=perplexity(found, ids, piece) / perplexity(expected, ids, piece),
    )


def _log_probabilities(logits: F32) -> F64:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
