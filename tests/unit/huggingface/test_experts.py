"""Folders of mixtures of experts: all forms give the same file, and what is incomplete is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shimmy.engine.load import op_table
from shimmy.errors import ModelError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.huggingface.converted import Converter
from shimmy.plugins import Plugins
from tests import architectures

Tensors = dict[str, np.ndarray]
LAYER = "model.layers.0.block_sparse_moe.experts."


def converted(folder: Path, plugins: Plugins) -> dict[str, np.ndarray]:
    """The tensors of the file that a folder becomes."""
    converter = Converter(plugins, op_table(plugins), "f16", folder.parent / "cache")
    with open_gguf(converter.file_of(folder, lambda *_: None)) as file:
        weights = Weights(file, plugins.quant_types)
        return {name: weights.dequantize(name).reshape(weights.shape(name)) for name in weights.names()}


def changed(place: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """The folder of a Mixtral with other tensors."""
    folder = architectures.folder("mixtral", place)
    file = folder / "model.safetensors"
    save_file({name: np.ascontiguousarray(t) for name, t in change(load_file(file)).items()}, file)
    return folder


def one_tensor_for_all(tensors: Tensors) -> Tensors:
    """As transformers has them in memory since its version 5."""
    result = {
        name.replace("block_sparse_moe", "mlp"): t for name, t in tensors.items() if ".experts." not in name
    }
    for layer in (0, 1):
        names = f"model.layers.{layer}.block_sparse_moe.experts.{{}}.{{}}.weight"
        gate, down, up = (
            np.stack([tensors[names.format(e, w)] for e in range(5)]) for w in ("w1", "w2", "w3")
        )
        result[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        result[f"model.layers.{layer}.mlp.experts.down_proj"] = down
    return result


def test_experts_become_one_tensor_in_the_order_of_their_numbers(tmp_path: Path, plugins: Plugins) -> None:
    folder = architectures.folder("mixtral", tmp_path)
    found, stored = converted(folder, plugins), load_file(folder / "model.safetensors")
    for name, theirs in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
        experts = [stored[f"{LAYER}{number}.{theirs}.weight"] for number in range(5)]
        np.testing.assert_array_equal(found[f"blk.0.ffn_{name}_exps.weight"], np.stack(experts))


def test_both_forms_are_the_same_model(tmp_path: Path, plugins: Plugins) -> None:
    each = converted(architectures.folder("mixtral", tmp_path / "each"), plugins)
    together = converted(changed(tmp_path / "all", one_tensor_for_all), plugins)
    assert each.keys() == together.keys()
    for name, values in each.items():
        np.testing.assert_array_equal(together[name], values)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: values for key, values in tensors.items() if key != name}


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (
        without(f"{LAYER}2.w1.weight"),
        r"there are 4 tensors like .*experts\.0\.w1\.weight', but none of expert 2",
    ),
    "missing matrix": (
        lambda tensors: {
            key: values for key, values in tensors.items() if "0.w1" not in key or "layers.1" in key
        },
        r"there are 4 tensors like .*experts\.1\.w1\.weight', but none of expert 0",
    ),
    "shape": (
        lambda tensors: {**tensors, f"{LAYER}3.w2.weight": np.zeros((48, 39), np.float16)},
        r"experts differ: '.*experts\.3\.w2\.weight' has shape \(48, 39\), '.*0\.w2\.weight' \(48, 40\)",
    ),
    "unknown": (
        lambda tensors: {**tensors, f"{LAYER}0.w4.weight": np.zeros((48, 40), np.float16)},
        r"'model\.layers\.0\.block_sparse_moe\.experts\.w4' is no module of config\.json's model",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_together_is_refused(case: str, tmp_path: Path, plugins: Plugins) -> None:
    change, message = WRONG[case]
    with pytest.raises(ModelError, match=message):
        converted(changed(tmp_path, change), plugins)
