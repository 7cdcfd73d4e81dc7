"""Real models of which some layers, or experts, are computed by the CPU: greedy tokens of F32 engines."""

from __future__ import annotations

import pytest

from tests.backend.harness import BACKENDS, compile_with
from tests.backend.split import SplitBackend
from tests.backend.test_zoo import answers, assert_answers
from tests.zoo import model_path, reference

pytestmark = pytest.mark.skipif("wgpu" not in BACKENDS, reason="no GPU adapter, not even a software one")

ALWAYS = [("llama_spm.q4_k_m", {"keep_layers": 1}), ("qwen3moe.q4_k_m", {"experts_of": 2})]
LONG = [
    *(("llama_spm.q4_k_m", {"keep_layers": layers}) for layers in (0, 2, 3)),
    *(("qwen3moe.q4_k_m", wishes) for wishes in ({"experts_of": 1}, {"keep_layers": 1, "experts_of": 2})),
    *((f"{name}.q4_k_m", {"keep_layers": 1}) for name in ("gpt2", "gemma2", "phi2", "phi3", "starcoder2")),
]


@pytest.mark.parametrize(
    ("name", "wishes"), [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.full) for case in LONG)], ids=str
)
def test_greedy_tokens_and_logits(name: str, wishes: dict[str, int]) -> None:
    plan = compile_with(SplitBackend(**wishes), model_path(name))
    assert (plan.host is None) == (wishes == {"keep_layers": 3})
    for prompt in reference(name.split(".")[0])["prompts"]:
        assert_answers(plan, prompt["ids"], answers(name)[prompt["id"]])
    plan.close()
