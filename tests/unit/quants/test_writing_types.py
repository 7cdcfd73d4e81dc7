"""Types that can be written: bit for bit what ggml's reference makes of the same weights."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from shimmy.errors import ConfigError, ModelError
from shimmy.gguf.encode import Encoder, writable_type
from shimmy.plugins import Plugins

WRITABLE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def weights(rows: int = 64, columns: int = 96) -> np.ndarray:
    """Of very different sizes, with zeros and a row of zeros."""
    random = np.random.default_rng(5)
    values = random.standard_normal((rows, columns)) * 10.0 ** random.integers(-6, 3, (rows, 1))
    values[3] = 0
    values[:, 7] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("name", WRITABLE)
def test_blocks_are_those_of_ggml(plugins: Plugins, name: str):
    values = weights()
    encoder = Encoder(plugins.quant_types.get(name))
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
    data = encoder.encode(values, "w")
    assert data.tobytes() == expected.tobytes()
    assert len(data) == encoder.n_bytes(values.shape)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_that_were_read_are_written_as_they_were(plugins: Plugins, name: str):
    spec = plugins.quant_types.get(name)
    encoder = Encoder(spec)
    data = encoder.encode(weights(), "w")
    values = spec.load().dequantize_blocks(data.reshape(-1, spec.block_bytes))
    assert encoder.encode(values, "w").tobytes() == data.tobytes()


def test_a_weight_too_large_for_the_type_is_refused(plugins: Plugins):
    values = weights()
    values[1, 1] = 1e30
    with pytest.raises(ModelError, match=r"'w' has a weight of 1e\+30, too large for the type F16.*bf16"):
        Encoder(plugins.quant_types.get("F16")).encode(values, "w")
    assert len(Encoder(plugins.quant_types.get("BF16")).encode(values, "w")) == values.size * 2


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_refused(plugins: Plugins, wrong: float):
    values = weights()
    values[1, 1] = wrong
    with pytest.raises(ModelError, match="'w' holds values that are no finite numbers"):
        Encoder(plugins.quant_types.get("Q8_0")).encode(values, "w")


def test_types_are_found_by_name(plugins: Plugins):
    assert writable_type("q8_0", plugins.quant_types).name == "Q8_0"
    assert writable_type("F16", plugins.quant_types).name == "F16"
    with pytest.raises(ConfigError, match=r"IQ4_XS can be read, but not written.*mxfp4"):
        writable_type("iq4_xs", plugins.quant_types)
    with pytest.raises(ConfigError, match="Did you mean 'q8_0'"):
        writable_type("q8", plugins.quant_types)
    with pytest.raises(ConfigError, match="Q4_K can be read, but not written"):
        Encoder(plugins.quant_types.get("Q4_K"))
