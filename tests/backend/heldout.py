"""The zoo's held-out text, evaluated in pieces from position 0, as its references do it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Plan
from shimmy.gguf.reader import open_gguf
from shimmy.text.tokenizer import load_tokenizer
from tests.backend.harness import LIMITS, PLUGINS, Part, batch_of, rows_of
from tests.zoo import FOLDER, model_path

F64 = NDArray[np.float64]
#: Tokens that are evaluated together.
PIECE = 256


def pieces(name: str) -> Iterator[list[int]]:
    """The text in tokens of a zoo model, piece by piece."""
    with open_gguf(model_path(name)) as file:
        tokenizer = load_tokenizer(file.metadata, PLUGINS.tokenizers)
    ids = list(tokenizer.encode((FOLDER / "heldout.txt").read_text("utf-8")))
    return (ids[start : start + PIECE] for start in range(0, len(ids), PIECE))


def log_probabilities(plan: Plan, piece: list[int]) -> F64:
    """(tokens, vocabulary): of what may follow each token."""
    blocks = range(-(-PIECE // plan.block_tokens))
    plan.reserve(len(blocks))
    chunks = ((at, piece[at : at + LIMITS.step_tokens]) for at in range(0, len(piece), LIMITS.step_tokens))
    rows = [rows_of(plan, batch_of([Part(chunk, at, blocks)], every_row=True)) for at, chunk in chunks]
    return normalised(np.concatenate(rows))


def surprises(plan: Plan, piece: list[int]) -> F64:
    """-log p of each token of a piece but the first."""
    result: F64 = -log_probabilities(plan, piece)[np.arange(len(piece) - 1), piece[1:]]
    return result


def normalised(logits: NDArray[np.float32]) -> F64:
    """(rows, vocabulary): log p of each."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: F64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def divergence(exact: F64, found: F64) -> float:
    """Kullback and Leibler's, the mean of rows, in nats."""
    return float((np.exp(exact) * (exact - found)).sum(axis=1).mean())
