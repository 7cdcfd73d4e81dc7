"""How well small real models predict a text, beside other people's float32 arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.plan import Plan
from shimmy.gguf.reader import open_gguf
from shimmy.text.tokenizer import load_tokenizer
from tests.backend.harness import BACKENDS, LIMITS, PLUGINS, Part, batch_of, compile_model, rows_of
from tests.zoo import FILES, FOLDER, model_path, reference

#: What stores weights as they are; its products are always F32.
WHOLE = ("f16", "f32")
#: llama.cpp rounds activations to bfloat16 for such files, so nobody has evaluated them in F32.
EVALUATED = [name for name in FILES if name != "llama_spm.bf16"]
#: By how much, as a part of it, perplexity may differ from float32 arithmetic on the same weights.
MARGIN = {"f32": 0.001, "int8": 0.01}
#: Tokens that are evaluated together, from position 0.
PIECE = 256


def held_out(name: str) -> list[int]:
    with open_gguf(model_path(name)) as file:
        tokenizer = load_tokenizer(file.metadata, PLUGINS.tokenizers)
    return list(tokenizer.encode((FOLDER / "heldout.txt").read_text("utf-8")))


def surprises(plan: Plan, piece: list[int]) -> list[float]:
    """-log p of each token of a piece but the first."""
    result: list[float] = []
    blocks = range(-(-PIECE // plan.block_tokens))
    for at in range(0, len(piece), LIMITS.step_tokens):
        tokens = piece[at : at + LIMITS.step_tokens]
        logits = rows_of(plan, batch_of([Part(tokens, at, blocks)], every_row=True)).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        following = piece[at + 1 : at + 1 + len(tokens)]
        result += [-row[token] for row, token in zip(log_probabilities, following, strict=False)]
    return result


CASES = [
    pytest.param(
        *(backend, precision, name),
        # The definitions themselves take ten seconds for a file.
        marks=[pytest.mark.full] if backend == "reference" else [],
    )
    for backend in BACKENDS
    for precision in MARGIN
    for name in EVALUATED
    if precision == "f32" or not (backend == "reference" or name.endswith(WHOLE))
]


@pytest.mark.parametrize(("backend", "precision", "name"), CASES)
def test_perplexity(backend: str, precision: str, name: str) -> None:
    model, kind = name.split(".")
    answers = reference(model)
    if kind in WHOLE:
        expected = answers["transformers_f32"]["perplexity"]
    else:
        expected = answers["llamacpp"][f"{kind}__dequantised_to_f32"]["perplexity"]
    ids = held_out(name)
    plan = compile_model(backend, model_path(name), replace(LIMITS, precision=precision))
    assert plan.precision == precision
    plan.reserve(-(-PIECE // plan.block_tokens))
    found = [s for start in range(0, len(ids), PIECE) for s in surprises(plan, ids[start : start + PIECE])]
    plan.close()
    assert len(found) == expected["n"]
    assert np.exp(np.mean(found)) == pytest.approx(expected["ppl"], rel=MARGIN[precision])
