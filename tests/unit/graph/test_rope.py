"""Scaled rotary frequencies: equal to those of transformers for the same parameters."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.errors import GGUFError
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.rope import RopeFrequencies, rope_frequencies
from shimmy.graph.scaling import PLAIN, RopeScaling, Yarn, read_scaling
from shimmy.plugins import Plugins
from tests.unit.graph.tensors import Tensors
from tests.zoo import FOLDER, model_path

ROWS = json.loads((FOLDER.parent / "rope" / "frequencies.json").read_text("utf-8"))

#: Parameters of transformers, as converters write them. Partial rotation is in ``dims`` already.
KEYS = {
    "rope_type": "scaling.type",
    "factor": "scaling.factor",
    "original_max_position_embeddings": "scaling.original_context_length",
    "beta_fast": "scaling.yarn_beta_fast",
    "beta_slow": "scaling.yarn_beta_slow",
    "attention_factor": "scaling.yarn_attn_factor",
}


def title(row: dict[str, Any]) -> str:
    values = [v for v in row["rope"].values() if not isinstance(v, list)]
    return "-".join(map(str, [*values, row["dims"], row["seq_len"] or row["context"]]))


def rows(*kinds: str) -> Any:
    found = [row for row in ROWS if row["rope"]["rope_type"] in kinds]
    return pytest.mark.parametrize("row", found, ids=title)


def metadata_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a GGUF file of a model with these parameters says."""
    rope = {f"x.rope.{KEYS[key]}": value for key, value in row["rope"].items() if key in KEYS}
    if row["rope"].get("mscale_all_dim"):
        rope["x.rope.scaling.yarn_log_multiplier"] = row["rope"]["mscale_all_dim"]
    if row["rope"]["rope_type"] == "longrope" and "attention_factor" in row["rope"]:
        rope["x.rope.scaling.attn_factor"] = rope.pop("x.rope.scaling.yarn_attn_factor")
    return {"x.context_length": row["context"], **rope}


def assert_equal(found: RopeFrequencies, row: dict[str, Any]) -> None:
    assert found.inverse.dtype == np.float64
    assert found.inverse.shape == (row["dims"] // 2,)
    np.testing.assert_allclose(found.inverse, row["inverse"], rtol=1e-6)
    assert found.magnitude == pytest.approx(row["magnitude"], rel=1e-6)


@rows("linear", "yarn")
def test_linear_and_yarn(row: dict[str, Any]) -> None:
    scaling = read_scaling(metadata_of(row), "x", Tensors(), row["context"])
    assert scaling.kind == row["rope"]["rope_type"]
    assert_equal(rope_frequencies(row["base"], row["dims"], scaling), row)


@rows("longrope")
@pytest.mark.parametrize("typed", [True, False])
def test_longrope(row: dict[str, Any], typed: bool) -> None:
    """By the context that is asked for; also from files that leave the type out, as Phi-3's do."""
    metadata = metadata_of(row)
    if not typed:
        del metadata["x.rope.scaling.type"]
    names = ("rope_factors_short.weight", "rope_factors_long.weight")
    scaling = read_scaling(metadata, "x", Tensors(*names), row["seq_len"])
    factors = row["rope"]["long_factor" if scaling.factors == names[1] else "short_factor"]
    found = rope_frequencies(row["base"], row["dims"], scaling, np.array(factors, np.float32))
    assert scaling.kind == "longrope"
    assert_equal(found, row)


@rows("llama3")
def test_llama3_by_the_divisors_in_the_file(row: dict[str, Any], plugins: Plugins) -> None:
    with open_gguf(model_path("llama3_bpe.q4_k_m")) as file:
        weights = Weights(file, plugins.quant_types)
        scaling = read_scaling(file.metadata, "llama", weights, 1024)
        assert scaling == RopeScaling(factors="rope_freqs.weight")
        factors = weights.dequantize("rope_freqs.weight")[0]
    assert scaling.kind == "llama3"
    assert_equal(rope_frequencies(row["base"], row["dims"], scaling, factors), row)


def rotations(frequencies: NDArray[np.float64], context: int) -> NDArray[np.float64]:
    """Rotations of each pair within a context."""
    return frequencies * context / (2 * math.pi)


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones() -> None:
    plain = rope_frequencies(10000.0, 128, PLAIN).inverse
    found = rope_frequencies(10000.0, 128, RopeScaling(yarn=Yarn(8.0, 4096))).inverse
    turns = rotations(plain, 4096)
    np.testing.assert_array_equal(found[turns > 45], plain[turns > 45])
    np.testing.assert_allclose(found[turns < 0.7], plain[turns < 0.7] / 8, rtol=1e-15)
    between = (turns < 30) & (turns > 1.1)
    assert (found[between] < plain[between]).all()
    assert (found[between] > plain[between] / 8).all()


def test_parts_compose() -> None:
    """The file's divisors first, then its linear one; YaRN takes the result for the model's own."""
    divisors = np.linspace(1, 4, 16, dtype=np.float32)
    whole = RopeScaling(linear=2.0, factors="f", yarn=Yarn(3.0, 1024), magnitude=1.5)
    found = rope_frequencies(1e4, 32, whole, divisors)
    yarn = rope_frequencies(1e4, 32, RopeScaling(yarn=Yarn(3.0, 1024)))
    np.testing.assert_allclose(found.inverse, yarn.inverse / divisors / 2, rtol=1e-15)
    assert found.magnitude == pytest.approx(1.5 * (0.1 * math.log(3) + 1))
    assert (whole.kind, whole.factor) == ("llama3+linear+yarn", 6.0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_divisors_that_are_none(value: float) -> None:
    with pytest.raises(GGUFError, match="'rope_freqs.weight' has values that are not finite and above 0"):
        rope_frequencies(1e4, 4, RopeScaling(factors="rope_freqs.weight"), np.array([1.0, value], np.float32))


def test_cos_sin_far_out_are_exact() -> None:
    """Angles are float64: at position 131,071 one of float32 would be off by 0.004."""
    cos, sin = rope_frequencies(10000.0, 4, RopeScaling(magnitude=2.0)).cos_sin(
        np.array([0, 131071], np.int32)
    )
    assert cos.dtype == sin.dtype == np.float32
    expected = [[2.0, 2.0], [2 * math.cos(131071), 2 * math.cos(1310.71)]]
    np.testing.assert_allclose(cos, expected, rtol=1e-6)
    np.testing.assert_allclose(sin[1], [2 * math.sin(131071), 2 * math.sin(1310.71)], rtol=1e-6)
