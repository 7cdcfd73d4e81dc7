"""What architectures make of metadata that files leave out or say in several ways."""

from __future__ import annotations

import math
from typing import Any

import pytest

from shimmy.errors import GGUFError, GraphError
from shimmy.gguf.params import read_params
from shimmy.plugins import Plugins
from shimmy_plugins.architectures.gemma2 import Gemma2Params

HEADS = {"embedding_length": 4608, "attention.head_count": 32, "attention.key_length": 128}


def params(plugins: Plugins, name: str, layers: int, **keys: Any) -> Any:
    """Those of a file that has only what it must, and ``keys``, with two underscores for dots."""
    eps = {f"attention.layer_norm_{kind}epsilon": 1e-6 for kind in ("", "rms_")}
    named = {key.replace("__", "."): value for key, value in keys.items()}
    metadata = {f"{name}.{key}": v for key, v in {"block_count": layers, **HEADS, **eps, **named}.items()}
    return read_params(plugins.architectures.get(name).load().params, metadata, name)


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [("gemma2", 42, 128), ("gemma2", 46, 144), ("gemma3", 46, 128), ("gemma3", 62, 144)],
)
def test_queries_of_the_27b_models_have_a_scale_of_their_own(
    plugins: Plugins, name: str, layers: int, width: int
) -> None:
    assert params(plugins, name, layers).query_scale == pytest.approx(1 / math.sqrt(width))
    assert params(plugins, name, layers, attention__scale=0.25).query_scale == 0.25


def local(p: Gemma2Params) -> str:
    """L for a local layer, g for a global one."""
    return "".join("L" if p.is_local(layer) else "g" for layer in range(p.block_count))


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("gemma2", {}, "LgLgLgLg"),
        ("gemma2", {"attention__sliding_window": 0}, "gggggggg"),
        ("gemma2", {"attention__sliding_window_pattern": 4}, "LLLgLLLg"),
        ("gemma3", {}, "gggggggg"),
        ("gemma3", {"attention__sliding_window": 512}, "LLLLLgLL"),
        ("gemma3", {"attention__sliding_window": 512, "attention__sliding_window_pattern": 0}, "LLLLLLLL"),
        (
            "gemma3",
            {
                "attention__sliding_window": 9,
                "attention__sliding_window_pattern": [True, False] * 3 + [False] * 2,
            },
            "LgLgLggg",
        ),
        # Numbers for true and false; all alike, they are still one for each layer.
        (
            "gemma3",
            {"attention__sliding_window": 9, "attention__sliding_window_pattern": [1, 1, 0, 1] * 2},
            "LLgLLLgL",
        ),
        ("gemma2", {"attention__sliding_window_pattern": [1] * 8}, "LLLLLLLL"),
    ],
)
def test_which_layers_are_local(plugins: Plugins, name: str, keys: dict[str, Any], expected: str) -> None:
    assert local(params(plugins, name, 8, **keys)) == expected


def test_a_pattern_is_of_all_layers(plugins: Plugins) -> None:
    short = params(plugins, "gemma2", 8, attention__sliding_window_pattern=[True, False, True])
    with pytest.raises(GraphError, match="the window pattern is of 3 layers, not 8"):
        short.is_local(0)


@pytest.mark.parametrize(("name", "normalised"), [("llama", True), ("qwen3moe", True), ("qwen2moe", False)])
def test_whether_weights_of_experts_are_normalised(plugins: Plugins, name: str, normalised: bool) -> None:
    assert params(plugins, name, 2).expert_weights_norm is normalised
    assert params(plugins, name, 2, expert_weights_norm=not normalised).expert_weights_norm is not normalised


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "phi3", "starcoder2", "gpt2"])
def test_heads_that_differ_from_layer_to_layer_are_refused(plugins: Plugins, name: str) -> None:
    assert params(plugins, name, 3, attention__head_count_kv=[4, 4, 4]).kv_heads == 4
    with pytest.raises(GGUFError, match=rf"'{name}\.attention\.head_count_kv' differs from layer to layer"):
        params(plugins, name, 3, attention__head_count_kv=[4, 8, 4])


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3", "gpt2"])
@pytest.mark.parametrize(
    "key",
    [
        *("block_count", "embedding_length", "attention__head_count"),
        *("attention__head_count_kv", "attention__key_length"),
    ],
)
def test_sizes_are_above_zero(plugins: Plugins, name: str, key: str) -> None:
    with pytest.raises(GGUFError, match=rf"'{key.replace('__', '.')}' of the architecture is -2, expected"):
        params(plugins, name, 2, **{key: -2})
