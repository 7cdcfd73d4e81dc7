"""How far activations of 8 bits move the next token's probabilities, beside what llama.cpp's own do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Plan
from tests.backend.harness import LIMITS, Part, batch_of, compile_model, rows_of
from tests.zoo import FILES, model_path, reference

F64 = NDArray[np.float64]
MODELS = [name for name in FILES if name.endswith(".q4_k_m")]
PRECISIONS = ("f32", "int8")


def log_probabilities(plan: Plan, ids: list[int]) -> F64:
    """Of each token after a prompt."""
    size = LIMITS.step_tokens
    plan.reserve(-(-len(ids) // plan.block_tokens))
    blocks = range(-(-len(ids) // plan.block_tokens))
    for start in range(0, len(ids), size):
        rows = rows_of(plan, batch_of([Part(ids[start : start + size], start, blocks)]))
    logits = rows[0].astype(np.float64) - rows[0].max()
    return logits - np.log(np.exp(logits).sum())


def recorded(answer: dict[str, Any]) -> tuple[list[int], F64]:
    """The tokens of which a reference tells the logit: the likeliest, and some others."""
    logits = answer["first_logits"]
    known = {int(token): value for token, value in logits["top20"]}
    known |= dict(zip(logits["probe_idx"], logits["probe"], strict=True))
    return list(known), np.array(list(known.values()))


def divergence(exact: F64, found: F64) -> float:
    """Kullback and Leibler's, of probabilities of some tokens among themselves."""
    exact, found = (x - np.log(np.exp(x).sum()) for x in (exact, found))
    return float((np.exp(exact) * (exact - found)).sum())


def divergences(name: str) -> Iterator[tuple[float, float]]:
    """Ours and llama.cpp's for the same file, of the tokens after each prompt."""
    model, kind = name.split(".")
    answers = reference(model)["llamacpp"][kind]["prompts"]
    plans = [compile_model("cpu", model_path(name), replace(LIMITS, precision=p)) for p in PRECISIONS]
    for prompt in reference(model)["prompts"]:
        tokens, theirs = recorded(answers[prompt["id"]])
        exact, ours = (log_probabilities(plan, prompt["ids"])[tokens] for plan in plans)
        yield divergence(exact, ours), divergence(exact, theirs)
    for plan in plans:
        plan.close()


def test_predictions_move_less_than_llama_cpps() -> None:
    """One prompt says little: the mean over all models and prompts is compared."""
    ours, theirs = np.mean([pair for name in MODELS for pair in divergences(name)], axis=0)
    assert 0 < ours <= 1.1 * theirs
