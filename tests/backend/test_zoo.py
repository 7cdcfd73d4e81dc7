"""Small real models, every file type: greedy tokens and logits of other people's float32 engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backend.harness import BACKENDS, compile_model, generate_greedy
from tests.zoo import FILES, model_path, reference

#: llama.cpp rounds activations to bfloat16 for such files, so only our own reference can judge them.
JUDGED = [name for name in FILES if name != "llama_spm.bf16"]
#: The two best logits of a step may lie so close that another order of additions swaps them.
TIE = 0.02


def answers(name: str) -> dict[str, Any]:
    """What an exact engine answers for a file: transformers, or llama.cpp on the same weights as F32."""
    model, kind = name.split(".")
    if kind in ("f16", "f32"):
        return reference(model)["transformers_f32"]["prompts"]
    return reference(model)["llamacpp"][f"{kind}__dequantised_to_f32"]["prompts"]


def assert_answers(plan: Any, ids: list[int], answer: dict[str, Any]) -> None:
    expected, margins = answer["greedy_ids"], answer["margins"]
    found, logits = generate_greedy(plan, ids, len(expected))
    for at, (token, wanted, margin) in enumerate(zip(found, expected, margins, strict=True)):
        if token != wanted:
            assert margin < TIE, f"token {at} is {token}, not {wanted}"
            break
    top = (answer.get("last_logits") or answer["first_logits"])["top20"]
    top_ids, values = (np.array(column) for column in zip(*top, strict=True))
    np.testing.assert_allclose(logits[top_ids.astype(int)], values, rtol=0, atol=1e-3 * np.abs(values).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", JUDGED)
def test_greedy_tokens_and_logits(name: str, backend: str) -> None:
    plan = compile_model(backend, model_path(name))
    for prompt in reference(name.split(".")[0])["prompts"]:
        assert_answers(plan, prompt["ids"], answers(name)[prompt["id"]])
    plan.close()


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_bfloat16_agrees_with_the_reference(backend: str) -> None:
    ids = reference("llama_spm")["prompts"][1]["ids"]
    results = []
    for name in ("reference", backend):
        plan = compile_model(name, model_path("llama_spm.bf16"))
        results.append(generate_greedy(plan, ids, 8))
        plan.close()
    assert results[0][0] == results[1][0]
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=0, atol=1e-4)
