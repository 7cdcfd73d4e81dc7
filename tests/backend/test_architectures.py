"""Tiny models of every architecture, in odd shapes, made folders: what transformers computes in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shimmy.engine.load import op_table
from shimmy.huggingface.converted import Converter
from tests import architectures
from tests.backend.harness import BACKENDS, LIMITS, PLUGINS, compile_model, generate_greedy, no_progress

#: What comes with shimmy; the example's has a test of its own.
NAMES = [name for name in architectures.NAMES if name != "olmo2"]
#: The two best logits may lie so close that another order of additions swaps them.
TIE = 0.002


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_and_logits_are_those_of_transformers(name: str, backend: str, tmp_path: Path) -> None:
    folder = architectures.folder(name, tmp_path)
    path = Converter(PLUGINS, op_table(PLUGINS), "f16", tmp_path / "cache").file_of(folder, no_progress)
    for answer in architectures.recorded(name)["generations"]:
        # LongRoPE's frequencies follow the context, in transformers the tokens so far.
        context = 32 if len(answer["prompt"]) < 16 else 128
        plan = compile_model(backend, path, replace(LIMITS, max_ctx=context))
        expected, margins = answer["ids"], answer["margins"]
        found, logits = generate_greedy(plan, answer["prompt"], len(expected))
        for at, (token, wanted, margin) in enumerate(zip(found, expected, margins, strict=True)):
            if token != wanted:
                assert margin < TIE, f"token {at} is {token}, not {wanted}"
                break
        top, values = answer["first"]["ids"], answer["first"]["logits"]
        np.testing.assert_allclose(logits[top], values, rtol=0, atol=1e-4 * np.abs(values).max())
        plan.close()
