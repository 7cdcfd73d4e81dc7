"""Caches of other types than F32: equal to the NumPy definition, hardly worse than F32, and smaller."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.load import load_engine
from shimmy.engine.protocol import Ready
from shimmy.engine.settings import EngineSettings
from shimmy.graph.kv import KV_TYPES
from tests.backend.harness import (
    JUDGED,
    LIMITS,
    PLUGINS,
    assert_close,
    compile_model,
    generate_greedy,
    no_progress,
)
from tests.backend.heldout import pieces, surprises
from tests.zoo import FOLDER, model_path

MODEL = "llama_spm.q4_0"
#: By how much, as a part of it, perplexity may differ: about five times what was found.
MARGIN = {"f16": 0.0002, "q8_0": 0.0005}
PROMPT = json.loads((FOLDER.parent / "rope" / "generations.json").read_text("utf-8"))["prompt_ids"][:700]


@pytest.mark.parametrize("backend", JUDGED)
@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_long_answer_is_that_of_the_reference(kv_type: str, backend: str) -> None:
    limits = replace(LIMITS, max_ctx=1024, kv_type=kv_type)
    results = []
    for name in ("reference", backend):
        plan = compile_model(name, model_path(MODEL), limits)
        assert plan.kv_type == kv_type
        results.append(generate_greedy(plan, PROMPT, 12))
        plan.close()
    (expected, logits), (found, others) = results
    assert found == expected
    # Where F32 sums come in another order, now and then a key is rounded to another code.
    assert_close(others[None], logits[None], 2e-4 if backend == "wgpu" else 2e-5)


@pytest.mark.parametrize("kv_type", MARGIN)
def test_perplexity_is_nearly_that_of_f32(kv_type: str) -> None:
    found = {}
    for each in ("f32", kv_type):
        plan = compile_model("cpu", model_path(MODEL), replace(LIMITS, kv_type=each))
        found[each] = np.exp(np.mean(np.concatenate([surprises(plan, piece) for piece in pieces(MODEL)])))
        plan.close()
    assert found[kv_type] == pytest.approx(found["f32"], rel=MARGIN[kv_type])


def loaded(kv_type: str) -> Ready:
    """What an engine with little memory says."""
    settings = EngineSettings(backend="cpu", kv_type=kv_type, kv_memory=1_600_000)
    result = load_engine(model_path(MODEL), "tiny", settings, PLUGINS, no_progress)
    result.engine.close()
    return result.ready


def test_a_smaller_type_holds_more_context() -> None:
    facts = {kv_type: loaded(kv_type) for kv_type in KV_TYPES}
    assert [ready.kv_type for ready in facts.values()] == list(KV_TYPES)
    assert [ready.kv_bytes_per_token for ready in facts.values()] == [3072, 1536, 816]
    assert (facts["f32"].context, facts["f16"].context) == (512, 1024)
