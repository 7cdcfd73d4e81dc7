"""config.json of older and newer transformers says the same; what no architecture computes is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shimmy.errors import ModelError
from shimmy.huggingface.folder import ModelFolder
from shimmy.huggingface.model import FolderModel
from shimmy.plugins import Plugins
from tests.architectures import recorded


def metadata(place: Path, plugins: Plugins, name: str, **changes: Any) -> Mapping[str, Any]:
    """What the config.json of a tiny model becomes with other keys; None leaves one out."""
    config = {**recorded(name)["config"], **changes}
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return FolderModel(ModelFolder(place), plugins).config_metadata


OLDER: dict[str, dict[str, Any]] = {
    "gemma3": {
        "rope_parameters": None,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 5000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "qwen3moe": {"num_local_experts": None, "num_experts": 7},
    "phi2": {"rope_parameters": None, "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
    "gpt2": {"n_inner": 104, "n_ctx": 128},
}


@pytest.mark.parametrize("name", OLDER)
def test_older_files_say_the_same(name: str, tmp_path: Path, plugins: Plugins) -> None:
    assert metadata(tmp_path, plugins, name, **OLDER[name]) == metadata(tmp_path, plugins, name)


def test_gemma3_has_its_windows_and_its_two_bases(tmp_path: Path, plugins: Plugins) -> None:
    found = metadata(tmp_path, plugins, "gemma3")
    assert found["gemma3.attention.sliding_window_pattern"] == [True] * 5 + [False, True]
    assert (found["gemma3.rope.freq_base"], found["gemma3.rope.freq_base_swa"]) == (1e6, 5e3)
    assert (found["gemma3.rope.scaling.type"], found["gemma3.rope.scaling.factor"]) == ("linear", 8.0)
    assert found["gemma3.attention.scale"] == pytest.approx(20**-0.5)
    older = metadata(tmp_path, plugins, "gemma3", layer_types=None, sliding_window_pattern=3)
    assert older["gemma3.attention.sliding_window_pattern"] == 3


@pytest.mark.parametrize(
    ("model_class", "window"),
    [("MistralForCausalLM", 24), ("MixtralForCausalLM", 24), ("LlamaForCausalLM", None)],
)
def test_windows_are_mistrals(model_class: str, window: int | None, tmp_path: Path, plugins: Plugins) -> None:
    found = metadata(tmp_path, plugins, "llama", architectures=[model_class], sliding_window=24)
    assert found.get("llama.attention.sliding_window") == window
    assert found["llama.context_length"] == 256


@pytest.mark.parametrize("name", ["qwen2moe", "qwen3moe"])
@pytest.mark.parametrize(("key", "value"), [("mlp_only_layers", [1]), ("decoder_sparse_step", 2)])
def test_layers_without_experts_are_refused(
    name: str, key: str, value: Any, tmp_path: Path, plugins: Plugins
) -> None:
    with pytest.raises(ModelError, match=f"'{key}' is .* computes"):
        metadata(tmp_path, plugins, name, **{key: value})


def test_caps_that_are_null_are_none(tmp_path: Path, plugins: Plugins) -> None:
    found = metadata(tmp_path, plugins, "gemma2_uncapped")
    assert (found["gemma2.attn_logit_softcapping"], found["gemma2.final_logit_softcapping"]) == (0.0, 0.0)


def test_gpt2_without_a_length_of_its_feed_forward(tmp_path: Path, plugins: Plugins) -> None:
    assert metadata(tmp_path, plugins, "gpt2", n_inner=None)["gpt2.feed_forward_length"] == 4 * 72


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "local scaling": (
        "gemma3",
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6},
                "sliding_attention": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0},
            }
        },
        r"config\.json: local layers have rope_type 'linear', expected 'default'",
    ),
    "no scale": ("gemma2", {"query_pre_attn_scalar": None}, "is none of 'gemma2' .*query_pre_attn_scalar"),
    "senseless scale": ("gemma2", {"query_pre_attn_scalar": "wide"}, r"config\.json: is none of 'gemma2'"),
    "no scale at all": ("gemma2", {"query_pre_attn_scalar": 0}, r"config\.json: is none of 'gemma2'"),
    "another kind of layers": (
        "gemma2",
        {"layer_types": ["full_attention", "chunked_attention", "sliding_attention"]},
        "'layer_types' has 'chunked_attention', expected 'sliding_attention' or 'full_attention'",
    ),
    "no kinds": ("gemma3", {"rope_parameters": [1, 2]}, r"config\.json: "),
    "no experts": ("qwen3moe", {"num_local_experts": None}, "is none of 'qwen3moe' .*num_local_experts"),
    "sees both ways": (
        "gemma3",
        {"use_bidirectional_attention": True},
        "'use_bidirectional_attention' is True",
    ),
    "another gelu": ("gpt2", {"activation_function": "gelu"}, "'activation_function' is 'gelu'"),
    "scaled layers": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "'scale_attn_by_inverse_layer_idx'"),
    "norms of q and k": ("phi2", {"qk_layernorm": True}, "'qk_layernorm' is True, but 'phi2' computes False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_is_refused(case: str, tmp_path: Path, plugins: Plugins) -> None:
    name, changes, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        metadata(tmp_path, plugins, name, **changes)
