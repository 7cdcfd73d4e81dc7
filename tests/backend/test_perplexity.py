"""How well small real models predict a text, beside other people's float32 arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.plan import Plan
from shimmy.gguf.reader import open_gguf
from shimmy.text.tokenizer import load_tokenizer
from tests.backend.harness import JUDGED, LIMITS, PLUGINS, Part, batch_of, compile_model, rows_of
from tests.zoo import FILES, FOLDER, model_path, reference

#: Those of which llama.cpp has evaluated the same weights as F32.
QUANTISED = [name for name in FILES if name.partition(".")[2] not in ("f32", "f16", "bf16")]
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


@pytest.mark.parametrize("precision", MARGIN)
@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("backend", JUDGED)
def test_perplexity(name: str, precision: str, backend: str) -> None:
    model, kind = name.split(".")
    expected = reference(model)["llamacpp"][f"{kind}__dequantised_to_f32"]["perplexity"]
    ids = held_out(name)
    plan = compile_model(backend, model_path(name), replace(LIMITS, precision=precision))
    assert plan.precision == precision
    plan.reserve(-(-PIECE // plan.block_tokens))
    found = [s for start in range(0, len(ids), PIECE) for s in surprises(plan, ids[start : start + PIECE])]
    plan.close()
    assert len(found) == expected["n"]
    assert np.exp(np.mean(found)) == pytest.approx(expected["ppl"], rel=MARGIN[precision])
