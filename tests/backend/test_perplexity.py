"""How well small real models predict a text, beside other people's float32 arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.backend.harness import BACKENDS, LIMITS, compile_model
from tests.backend.heldout import pieces, surprises
from tests.zoo import FILES, model_path, reference

#: What stores weights as they are; its products are always F32.
WHOLE = ("f16", "f32")
#: llama.cpp rounds activations to bfloat16 for such files, so nobody has evaluated them in F32.
EVALUATED = [name for name in FILES if name != "llama_spm.bf16"]
#: By how much, as a part of it, perplexity may differ from float32 arithmetic on the same weights.
MARGIN = {"f32": 0.001, "int8": 0.01}


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
    plan = compile_model(backend, model_path(name), replace(LIMITS, precision=precision))
    assert plan.precision == precision
    found = np.concatenate([surprises(plan, piece) for piece in pieces(name)])
    plan.close()
    assert len(found) == expected["n"]
    assert np.exp(found.mean()) == pytest.approx(expected["ppl"], rel=MARGIN[precision])
