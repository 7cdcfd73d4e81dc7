"""Adapters of bases that keep matrices otherwise than Hugging Face: transposed, or of all experts in one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shimmy.engine.load import op_table
from shimmy.errors import AdapterError
from shimmy.huggingface.converted import Converter
from shimmy.lora.bind import bind
from shimmy.lora.pairing import Candidate, misfit
from shimmy.lora.read import read_adapter
from shimmy.plugins import Plugins
from tests import architectures
from tests.lora import fitted, open_base
from tests.unit.lora.training import catalog


def base(name: str, place: Path, plugins: Plugins) -> tuple[Path, Path]:
    """A model's folder, and the file it is converted to."""
    folder = architectures.folder(name, place)
    converter = Converter(plugins, op_table(plugins), "f32", place / "cache")
    return folder, converter.file_of(folder, lambda *_: None)


def adapter(place: Path, **tensors: np.ndarray) -> Path:
    """An adapter of rank 2 with these tensors, dots written as two underscores."""
    place.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "modules_to_save": ["c_fc"]}
    (place / "adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.{name.replace('__', '.')}": values for name, values in tensors.items()}
    save_file(
        {name: np.ascontiguousarray(values) for name, values in named.items()},
        place / "adapter_model.safetensors",
    )
    return place


def test_a_whole_matrix_is_transposed_like_the_bases(tmp_path: Path, plugins: Plugins) -> None:
    folder, file = base("gpt2", tmp_path, plugins)
    weight = load_file(folder / "model.safetensors")["transformer.h.0.mlp.c_fc.weight"].astype(np.float32)
    change = np.zeros_like(weight)
    change[3, 5] = 0.5
    saved = adapter(tmp_path / "saved", transformer__h__0__mlp__c_fc__weight=weight + change)
    ((label, term),) = fitted(saved, file).items()
    assert label == "blk.0.ffn_up"
    np.testing.assert_array_equal(term.b, change.T)


def test_an_expert_is_refused_by_name(tmp_path: Path, plugins: Plugins) -> None:
    _, file = base("qwen3moe", tmp_path, plugins)
    module = "model__layers__0__mlp__experts__3__gate_proj"
    parts = {
        f"{module}__lora_A__weight": np.ones((2, 48), np.float32),
        f"{module}__lora_B__weight": np.ones((24, 2), np.float32),
    }
    read = read_adapter(adapter(tmp_path / "expert", **parts), plugins.quant_types)
    with pytest.raises(
        AdapterError, match=r"experts\.3\.gate_proj' \(blk\.0\.ffn_gate_exps\) is part of an expert"
    ):
        bind(read, open_base(file))
    assert misfit(read, Candidate(catalog(plugins, base_gguf=file).default())) is None
