"""Biases that were trained along, of layers and of the norms before them: as if the base's file had them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shimmy.errors import AdapterError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import RawTensor, write_gguf
from tests.backend.harness import compile_model, generate_greedy
from tests.lora import PLUGINS, all_rows, fitted
from tests.zoo import model_path

BASE = model_path("phi2.q4_k_m")
#: Of phi2, whose attention and feed-forward both read the same norm.
NAMES = {
    "model.layers.0.input_layernorm": "blk.0.attn_norm",
    "model.layers.0.mlp.fc1.base_layer": "blk.0.ffn_up",
    "model.final_layernorm": "output_norm",
}


def adapter(folder: Path, **more: np.ndarray) -> dict[str, np.ndarray]:
    """Write a LoRA of a layer and biases; the biases by their names in the base."""
    folder.mkdir()
    draw = np.random.default_rng(3)
    with open_gguf(BASE) as file:
        sizes = {label: file.tensors[f"{label}.bias"].shape for label in NAMES.values()}
    biases = {label: draw.normal(size=size).astype(np.float32) for label, size in sizes.items()}
    tensors = {f"base_model.model.{name}.bias": biases[label] for name, label in NAMES.items()}
    fc1 = "base_model.model.model.layers.0.mlp.fc1"
    tensors[f"{fc1}.lora_A.weight"] = draw.normal(size=(2, 256)).astype(np.float32)
    tensors[f"{fc1}.lora_B.weight"] = draw.normal(size=(1024, 2)).astype(np.float32)
    save_file(tensors | more, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 1, "bias": "all"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return biases


def base_with(path: Path, biases: dict[str, np.ndarray]) -> Path:
    by_id = types_by_id(PLUGINS.quant_types)
    with open_gguf(BASE) as file:
        tensors = {
            name: RawTensor(bytes(file.raw(name, by_id[info.ggml_id])), info.ggml_id, info.shape)
            for name, info in file.tensors.items()
        }
        write_gguf(path, file.metadata, tensors | {f"{label}.bias": bias for label, bias in biases.items()})
    return path


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_biases_of_layers_and_norms(backend: str, tmp_path: Path) -> None:
    biases = adapter(tmp_path / "adapter")
    terms = fitted(tmp_path / "adapter", BASE)
    low_rank = {"blk.0.ffn_up": terms["blk.0.ffn_up"]}
    assert terms.keys() == {"blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "output", *low_rank}
    other = base_with(tmp_path / "other.gguf", biases)
    judge, plan = compile_model("reference", other), compile_model(backend, BASE)
    # The judge has the biases in its file, and needs the pair of matrices alone.
    judge.put_adapter(1, {label: replace(term, offset=None) for label, term in low_rank.items()})
    plan.put_adapter(1, terms)
    (expected, right), (found, logits) = (
        generate_greedy(each, [5, 300, 7], 4, lambda batch: all_rows(batch, 1)) for each in (judge, plan)
    )
    assert found == expected
    np.testing.assert_allclose(logits, right, rtol=0, atol=1e-3)
    plan.close()
    judge.close()


def test_a_norms_weight_is_refused(tmp_path: Path) -> None:
    weight = {"base_model.model.model.final_layernorm.weight": np.ones(256, np.float32)}
    adapter(tmp_path / "adapter", **weight)
    with pytest.raises(AdapterError, match=r"'model.final_layernorm' \(output_norm\) is no matrix.*Merge it"):
        fitted(tmp_path / "adapter", BASE)


def test_a_norms_bias_of_another_size_is_refused(tmp_path: Path) -> None:
    bias = {"base_model.model.model.final_layernorm.bias": np.ones(128, np.float32)}
    adapter(tmp_path / "adapter", **bias)
    with pytest.raises(AdapterError, match=r"shape \(128,\), but for output_norm .* must be \(256,\)"):
        fitted(tmp_path / "adapter", BASE)
