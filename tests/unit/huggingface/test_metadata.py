"""config.json as GGUF metadata: the keys and values of llama.cpp's converter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shimmy.huggingface.folder import ModelFolder, is_model_folder
from shimmy.huggingface.model import FolderModel, model_name
from shimmy.huggingface.rope import Rotation, rotation
from tests.folders import FOLDER, all_plugins, change_json, copy


def config_metadata(folder: Path) -> dict[str, Any]:
    return dict(FolderModel(ModelFolder(folder), all_plugins()).config_metadata)


def test_keys_of_a_llama():
    assert config_metadata(FOLDER / "llama3") == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "llama3",
        "general.quantization_version": 2,
        "llama.vocab_size": 416,
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 50000.0,
    }


def test_recommended_sampling():
    metadata = FolderModel(ModelFolder(FOLDER / "qwen2"), all_plugins()).metadata
    assert metadata["general.sampling.temp"] == 0.6
    assert metadata["general.sampling.top_p"] == 0.9


def test_what_older_configs_leave_out(tmp_path: Path):
    folder = copy("llama3", tmp_path)
    before = config_metadata(folder)
    change_json(
        folder / "config.json",
        head_dim=None,
        num_key_value_heads=None,
        rms_norm_eps=None,
        rope_parameters=None,
        rope_theta=50000.0,
        rope_scaling=None,
    )
    changed = {"llama.attention.layer_norm_rms_epsilon": 1e-6}
    left_out = ("attention.head_count_kv", "attention.key_length", "attention.value_length")
    expected = {key: value for key, value in (before | changed).items() if not key.endswith(left_out)}
    assert config_metadata(folder) == expected


def described(numbers: dict[str, Any], **config: Any) -> Rotation:
    sizes = {"hidden_size": 256, "num_attention_heads": 4}
    return rotation({**sizes, **config, "rope_scaling": numbers}, context=4096)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"type": "linear", "factor": 4}, {"type": "linear", "factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "beta_fast": 16},
            {"type": "yarn", "factor": 4.0, "original_context_length": 1024, "yarn_beta_fast": 16.0},
        ),
        (
            {"type": "yarn", "factor": 2.0, "attention_factor": 1.25},
            {"type": "yarn", "factor": 2.0, "original_context_length": 4096, "yarn_attn_factor": 1.25},
        ),
        ({"rope_type": "default"}, {}),
        # Changes nothing up to the context the model was trained for.
        ({"rope_type": "dynamic", "factor": 4.0}, {}),
    ],
)
def test_rope_scaling(numbers: dict[str, Any], expected: dict[str, Any]):
    plain = {"rope.dimension_count": 64, "rope.freq_base": 10000.0}
    found = described(numbers)
    assert found.metadata() == plain | {f"rope.scaling.{key}": value for key, value in expected.items()}
    assert found.tensors() == {}


@pytest.mark.parametrize(("scale", "all_dims", "magnitude"), [(0.707, 1.0, None), (1.0, 1.0, 1.0)])
def test_magnitude_of_yarn(scale: float, all_dims: float, magnitude: float | None):
    """As DeepSeek's configs give it: two slopes. One, which GGUF has no number for, becomes nearly one."""
    numbers = {"rope_type": "yarn", "factor": 40.0, "mscale": scale, "mscale_all_dim": all_dims}
    slope = 0.1 * math.log(40.0)
    found = described(numbers).metadata()["rope.scaling.yarn_attn_factor"]
    assert found == pytest.approx(magnitude or (slope * scale + 1) / (slope * all_dims + 1), abs=1e-6)
    assert np.float32(found) != 1.0


def test_divisors_of_llama3():
    """The three ranges of the paper, by wavelength."""
    numbers = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    found = described({"rope_type": "llama3", "original_max_position_embeddings": 512, **numbers}).tensors()[
        "rope_freqs.weight"
    ]
    wavelengths = 2 * math.pi * 10000.0 ** (np.arange(0, 64, 2) / 64)
    assert found.shape == (32,)
    assert (found[wavelengths < 512 / 4] == 1.0).all()
    assert (found[wavelengths > 512] == 8.0).all()
    between = (wavelengths > 512 / 4) & (wavelengths < 512)
    kept = (512 / wavelengths[between] - 1) / 3
    np.testing.assert_allclose(found[between], 1 / ((1 - kept) / 8 + kept), rtol=1e-6)


def test_longrope_has_two_sets_of_divisors():
    sets = {"long_factor": [2.0] * 16, "short_factor": [1.0] * 16}
    found = described(
        {"type": "longrope", **sets}, partial_rotary_factor=0.5, original_max_position_embeddings=1024
    )
    assert found.metadata() == {
        "rope.dimension_count": 32,
        "rope.freq_base": 10000.0,
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": 1024,
    }
    assert {name: values.tolist() for name, values in found.tensors().items()} == {
        "rope_factors_long.weight": [2.0] * 16,
        "rope_factors_short.weight": [1.0] * 16,
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["config.json", "model.safetensors"], True),
        (["config.json", "model.safetensors.index.json"], True),
        (["config.json", "pytorch_model.bin"], True),
        (["config.json"], False),
        (["model.safetensors"], False),
        (["config.json", "adapter_config.json", "adapter_model.safetensors"], False),
    ],
)
def test_which_folders_are_models(names: list[str], expected: bool):
    assert is_model_folder(names) == expected


def test_names_of_models():
    cache = Path("hub") / "models--acme--Tiny-1B" / "snapshots" / "0123abc"
    assert model_name(cache) == "Tiny-1B"
    assert model_name(Path("runs") / "my.tune-2") == "my.tune-2"
