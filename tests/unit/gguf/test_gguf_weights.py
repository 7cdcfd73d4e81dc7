"""Weights: tensors by name through the registered quant types."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from shimmy.errors import GGUFError, PluginError
from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import WeightInfo, Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.quants import f32, q8_0

Q8_0_ROWS = np.random.default_rng(3).normal(size=(2, 3, 64)).astype(np.float32)
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


class Doubles:
    """A quant type with no run layout: int8 to its double."""

    def dequantize_blocks(self, blocks):
        return blocks.view(np.int8).astype(np.float32) * 2


def registry_of(*modules, extra=()):
    registry: Registry[QuantTypeSpec] = Registry("quant type")
    for module in modules:
        module.register_quant_types(lambda spec: registry.add(spec.name, spec, "test"))
    for spec in extra:
        registry.add(spec.name, spec, "test")
    return registry


@pytest.fixture
def file(tmp_path):
    packed = gguf.quants.quantize(Q8_0_ROWS, gguf.GGMLQuantizationType.Q8_0)
    tensors = {
        "matrix": MATRIX,
        "experts": RawTensor(packed.tobytes(), 8, (2, 3, 64)),
        "vector": np.ones(5, np.float32),
        "bytes": RawTensor(bytes([1, 255, 3, 4]), 24, (2, 2)),
        "odd": RawTensor(bytes(64), 12, (1, 256)),
    }
    write_gguf(tmp_path / "m.gguf", {}, tensors)
    with open_gguf(tmp_path / "m.gguf") as file:
        yield file


@pytest.fixture
def weights(file):
    return Weights(file, registry_of(f32, q8_0, extra=[QuantTypeSpec("I8", 24, 1, 1, load=Doubles)]))


def test_names_and_info(weights):
    assert weights.names() == ["matrix", "experts", "vector", "bytes", "odd"]
    assert "matrix" in weights
    assert "matrices" not in weights
    assert weights.info("experts") == WeightInfo("experts", (2, 3, 64), "Q8_0")
    assert weights.info("odd").type == "Q4_K"
    with pytest.raises(GGUFError, match=r"no tensor 'matrx'\. Did you mean 'matrix'"):
        weights.info("matrx")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(None, MATRIX), (slice(1, 3), MATRIX[1:3]), (slice(-1, None), MATRIX[2:]), (slice(0, 99), MATRIX)],
)
def test_rows_of_floats(weights, rows, expected):
    np.testing.assert_array_equal(weights.dequantize("matrix", rows), expected, strict=True)
    run = weights.run_layout("matrix", rows)
    assert isinstance(run, FloatRun)
    np.testing.assert_array_equal(run.values, expected, strict=True)


def test_a_vector_is_one_row(weights):
    assert weights.dequantize("vector").shape == (1, 5)


def test_leading_dimensions_are_rows(weights):
    whole = weights.dequantize("experts")
    assert whole.shape == (6, 64)
    np.testing.assert_allclose(whole, Q8_0_ROWS.reshape(6, 64), atol=0.02)
    run = weights.run_layout("experts", slice(4, 6))
    assert isinstance(run, AffineRun)
    assert (run.codes.shape, run.scales.units.shape, run.offsets) == ((2, 64), (2, 2), 128)
    values = run.scales.values().repeat(32, axis=1) * run.codes + run.offset_values().repeat(32, axis=1)
    np.testing.assert_array_equal(values, whole[4:6])


def test_a_type_without_run_layout_runs_as_float32(weights):
    run = weights.run_layout("bytes", slice(0, 1))
    assert isinstance(run, FloatRun)
    np.testing.assert_array_equal(run.values, np.array([[2, -2]], np.float32), strict=True)


@pytest.mark.parametrize("rows", [slice(2, 2), slice(3, 9), slice(2, 1), slice(0, 3, 2)])
def test_rows_that_are_none(weights, rows):
    with pytest.raises(ValueError, match="of the 3 rows of 'matrix'"):
        weights.dequantize("matrix", rows)


def test_an_unsupported_type_is_named(weights):
    with pytest.raises(
        GGUFError, match=r"'odd' is of the quant type Q4_K \(id 12 in ggml\), .* available: F32, I8, Q8_0"
    ) as caught:
        weights.dequantize("odd")
    assert "plugin" in caught.value.hint


def test_a_type_ggml_itself_does_not_know(tmp_path):
    write_gguf(tmp_path / "m.gguf", {}, {"t": RawTensor(bytes(8), 999, (8,))})
    with open_gguf(tmp_path / "m.gguf") as file:
        weights = Weights(file, registry_of())
        assert weights.info("t").type == "type 999"
        with pytest.raises(GGUFError, match="available: none"):
            weights.run_layout("t")


def test_a_file_cut_short_is_found_at_once(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, {}, {"a": MATRIX, "b": np.ones((100, 100), np.float32)})
    path.write_bytes(path.read_bytes()[:-1000])
    with open_gguf(path) as file, pytest.raises(GGUFError, match=r"tensor 'b', F32 .* the file ends at byte"):
        Weights(file, registry_of(f32))


def test_rows_that_are_not_whole_blocks(tmp_path):
    write_gguf(tmp_path / "m.gguf", {}, {"t": RawTensor(bytes(340), 8, (2, 48))})
    with (
        open_gguf(tmp_path / "m.gguf") as file,
        pytest.raises(GGUFError, match=r"has rows of 48 .* Q8_0"),
    ):
        Weights(file, registry_of(q8_0))


def test_two_types_of_one_id(file):
    twin = QuantTypeSpec("MY_F32", 0, 1, 4, load=Doubles)
    with pytest.raises(PluginError, match="id 0 is claimed twice: as F32 by test and as MY_F32 by test"):
        Weights(file, registry_of(f32, extra=[twin]))


def test_a_tensor_that_was_given_back_can_be_read_again(tmp_path):
    values = np.arange(1 << 16, dtype=np.float32).reshape(64, -1)
    write_gguf(tmp_path / "m.gguf", {}, {"small": MATRIX, "t": values})
    with open_gguf(tmp_path / "m.gguf") as file:
        weights = Weights(file, registry_of(f32))
        for name in ("t", "small", "t"):
            weights.release(name)
        np.testing.assert_array_equal(weights.dequantize("t"), values)
        np.testing.assert_array_equal(weights.dequantize("small"), MATRIX)
    weights.release("t")
