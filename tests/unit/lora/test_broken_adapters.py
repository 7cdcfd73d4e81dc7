"""Adapters that must not be used: each is refused with a message that names the cause."""

from __future__ import annotations

import pytest

from shimmy.errors import AdapterError
from tests.lora import fitted
from tests.zoo import LORA, model_path

BROKEN = {
    "truncated": r"ends at byte 30216, but the file has 26731",
    "truncated_in_header": r"announces a header of 1536 bytes, but the file has 200",
    "empty_file": r"has 0 bytes, so it is no safetensors file",
    "header_length_huge": r"announces a header of 1152921504606846976 bytes",
    "header_not_json": r"its header is no JSON",
    "offsets_overlap": r"shape \[128, 4\] and type F32 takes 2048 bytes, but the header gives it 4096",
    "shape_disagrees_with_offsets": r"shape \[8, 512\] .* takes 16384 bytes, but the header gives it 4096",
    "offsets_past_end": r"takes 4096 bytes, but the header gives it 1024",
    "rank_a_b_differ": r"A and B of '.*k_proj' do not fit together: A has rank 4, B 2",
    "rank_config_differs": r"has rank 4, but adapter_config.json says 16",
    "rank_zero": r"r is 0, expected a whole number above 0",
    "missing_lora_b": r"the lora_B of 'model.layers.0.self_attn.k_proj' is missing",
    "nan_weights": r"lora_B.weight' holds values that are no finite numbers",
    "layer_out_of_range": r"is of layer \d+, but the base has 3 layers",
    "unknown_module_names": r"nonsense_proj' is no module of the base",
    "base_mismatch_hidden_128": r"has shape \(4, 128\), but for blk.0.attn_k .* must be \(4, 256\)",
    "peft_type_ia3": r"peft_type is 'IA3', expected 'LORA'",
    "config_missing": r"has no adapter_config.json",
    "config_not_json": r"adapter_config.json: is no JSON",
    "no_weights": r"has no adapter_model.safetensors",
    "pickle_bin_only": r"is a pickle.*weights_only=True",
    "dora": r"use_dora: DoRA scales",
}


def test_all_of_them_are_here() -> None:
    assert {folder.name for folder in (LORA / "invalid").iterdir()} == BROKEN.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_refused(name: str) -> None:
    with pytest.raises(AdapterError) as caught:
        fitted(LORA / "invalid" / name, model_path("llama_spm.f16"))
    assert caught.match(f"(?s){BROKEN[name]}")
    # The message says which adapter it is about.
    assert name in str(caught.value)
    assert caught.value.hint
