"""Adapters of bases that keep matrices otherwise than Hugging Face: transposed, or of all experts in one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shimmy.engine.load import op_table
from shimmy.errors import AdapterError
from shimmy.huggingface.converted import Converter
from shimmy.lora.pairing import Candidate, misfit
from shimmy.lora.read import read_adapter
from shimmy.plugins import Plugins
from tests import architectures
from tests.lora import fitted
from tests.unit.lora.training import catalog


def base(name: str, place: Path, plugins: Plugins) -> tuple[Path, Path]:
    """A model's folder, and the file it is converted to."""
    folder = architectures.folder(name, place)
    converter = Converter(plugins, op_table(plugins), "f32", place / "cache")
    return folder, converter.file_of(folder, lambda *_: None)


def adapter(place: Path, config: Mapping[str, Any] = {}, /, **tensors: np.ndarray) -> Path:
    """An adapter of rank 2 with these tensors, dots written as two underscores."""
    place.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "modules_to_save": ["c_fc"], **config}
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


EXPERTS, WIDTH, WIDE = 7, 48, 24
LAYER = "model__layers__0__mlp__experts"


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def of_single_experts(numbers: Iterable[int] = range(EXPERTS)) -> dict[str, np.ndarray]:
    """As older trainers have them: a module for each."""
    return {
        f"{LAYER}__{number}__gate_proj__lora_{kind}__weight": floats(*shape) * (number + 1)
        for number in numbers
        for kind, shape in {"A": (2, WIDTH), "B": (WIDE, 2)}.items()
    }


def test_modules_of_experts_become_one(tmp_path: Path, plugins: Plugins) -> None:
    _, file = base("qwen3moe", tmp_path, plugins)
    tensors = of_single_experts()
    saved = adapter(tmp_path / "saved", **tensors)
    ((label, term),) = fitted(saved, file).items()
    assert label == "blk.0.ffn_gate_exps"
    assert (term.rank, term.scale) == (2, 1.0)
    for number in range(EXPERTS):
        for kind, found in (("A", term.a), ("B", term.b)):
            expected = tensors[f"{LAYER}__{number}__gate_proj__lora_{kind}__weight"]
            np.testing.assert_array_equal(found[number], expected)
    read = read_adapter(saved, plugins.quant_types)
    assert misfit(read, Candidate(catalog(plugins, base_gguf=file).default())) is None


def of_parameters(*, fused_outside: bool) -> dict[str, np.ndarray]:
    """As PEFT has them of models whose experts are parameters: the wrapper of one is inside the other's."""
    inside, outside = f"{LAYER}__base_layer__lora_", f"{LAYER}__lora_"
    fused, down = (outside, inside) if fused_outside else (inside, outside)
    return {
        f"{fused}A__weight": floats(EXPERTS * 4, WIDTH),
        f"{fused}B__weight": floats(2 * WIDE, 4 * EXPERTS),
        f"{down}A__weight": floats(EXPERTS * 2, WIDE),
        f"{down}B__weight": floats(WIDTH, 2 * EXPERTS),
    }


PARAMETERS: dict[str, Any] = {
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    "rank_pattern": {r".*\.gate_up_proj": 4},
    "alpha_pattern": {r".*\.gate_up_proj": 12},
}


@pytest.mark.parametrize("fused_outside", [True, False])
def test_parameters_that_are_experts(*, fused_outside: bool, tmp_path: Path, plugins: Plugins) -> None:
    """What PEFT computes of them: of A each expert has rows, of B columns, one after the other."""
    _, file = base("qwen3moe", tmp_path, plugins)
    saved = adapter(tmp_path / "saved", PARAMETERS, **of_parameters(fused_outside=fused_outside))
    terms = fitted(saved, file)
    for rank, names, inner, outer in ((4, ("gate", "up"), WIDTH, 2 * WIDE), (2, ("down",), WIDE, WIDTH)):
        a = floats(EXPERTS * rank, inner).reshape(EXPERTS, rank, inner)
        b = floats(outer, rank * EXPERTS).reshape(outer, rank, EXPERTS)
        change = np.einsum("ore,eri->eoi", b, a)
        found = [terms.pop(f"blk.0.ffn_{name}_exps") for name in names]
        assert [term.scale for term in found] == [3.0 if rank == 4 else 1.0] * len(found)
        np.testing.assert_allclose(np.concatenate([t.b @ t.a for t in found], axis=1), change, atol=1e-5)
    assert not terms


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (
            of_single_experts([0, 1, 3]),
            {},
            "adapts 3 modules '.*experts.gate_proj', but not that of expert 2",
        ),
        (of_single_experts([0, 1]), {}, r"must be \(7, 2, 48\)"),
        (
            of_single_experts() | {f"{LAYER}__1__gate_proj__lora_B__weight": floats(9, 2)},
            {},
            "differ in rank",
        ),
        (
            of_parameters(fused_outside=False),
            PARAMETERS | {"rank_pattern": {}, "r": 3},
            "no multiple of the rank 3",
        ),
        (dict(list(of_parameters(fused_outside=False).items())[:2]), PARAMETERS, "is not to be told"),
    ],
)
def test_adapters_of_experts_that_do_not_fit(
    tensors: dict[str, np.ndarray], config: dict[str, Any], message: str, tmp_path: Path, plugins: Plugins
) -> None:
    _, file = base("qwen3moe", tmp_path, plugins)
    saved = adapter(tmp_path / "saved", config, **tensors)
    with pytest.raises(AdapterError, match=message):
        fitted(saved, file)
