"""Real models of which some layers, or experts, are computed by the CPU: greedy tokens of F32 engines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.backend.harness import (
    BACKENDS,
    LIMITS,
    assert_close,
    backend_named,
    compile_with,
    generate_greedy,
)
from tests.backend.split import SplitBackend
from tests.backend.test_zoo import answers, assert_answers
from tests.lora import all_rows, fitted
from tests.zoo import LORA, adapter_reference, model_path, reference

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


def test_both_sides_compute_in_the_precision_that_is_set() -> None:
    ids = reference("llama_spm")["prompts"][0]["ids"]
    logits = {}
    for precision in ("f32", "int8"):
        limits = replace(LIMITS, precision=precision)
        for side, backend in (("cpu", backend_named("cpu")), ("both", SplitBackend(keep_layers=1))):
            plan = compile_with(backend, model_path("llama_spm.q4_k_m"), limits)
            assert plan.precision == precision
            logits[side, precision] = generate_greedy(plan, ids, 1)[1][None]
            plan.close()
    assert_close(logits["both", "f32"], logits["cpu", "f32"])
    assert_close(logits["both", "int8"], logits["cpu", "int8"], 1e-3)
    with pytest.raises(AssertionError):
        assert_close(logits["both", "int8"], logits["cpu", "f32"], 5e-3)


@pytest.mark.full
def test_an_adapter_trained_by_peft() -> None:
    base, name = model_path("llama_spm.f16"), "llama_spm_qk"
    expected = adapter_reference(name)
    plan = compile_with(SplitBackend(keep_layers=1), base)
    plan.put_adapter(1, fitted(LORA / name, base))
    for prompt in expected["prompts"]:
        tokens = expected["transformers_peft_f32"][prompt["id"]]["greedy_ids"]
        found, _ = generate_greedy(plan, prompt["ids"], len(tokens), partial(all_rows, place=1))
        assert found == tokens
    plan.close()
