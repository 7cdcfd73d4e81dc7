"""The built-in quant types against the `gguf` package's own dequantisation, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import gguf
import numpy as np
import pytest

import shimmy_plugins.quants
from shimmy.gguf.quant import AffineRun, FloatRun, RunnableQuantType
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from tests import zoo

KINDS = ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k_m", "q5_k_m", "q6_k"]
MODULES = sorted(
    path.stem for path in Path(shimmy_plugins.quants.__file__).parent.glob("*.py") if path.stem[0] != "_"
)
AFFINE = {  # bits, group, columns that share a unit, code of weight 0 where offsets are not stored
    "Q4_0": (4, 32, 32, 8),
    "Q4_1": (4, 32, 32, None),
    "Q5_0": (5, 32, 32, 16),
    "Q5_1": (5, 32, 32, None),
    "Q8_0": (8, 32, 32, 128),
    "Q4_K": (4, 32, 256, None),
    "Q5_K": (5, 32, 256, None),
    "Q6_K": (6, 16, 256, 32),
}
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def registered() -> Registry[QuantTypeSpec]:
    registry: Registry[QuantTypeSpec] = Registry("quant type")
    for name in MODULES:
        module = import_module(f"shimmy_plugins.quants.{name}")
        module.register_quant_types(lambda spec, name=name: registry.add(spec.name, spec, name))
    return registry


SPECS = {spec.name: spec for spec in registered()}


def random_blocks(spec: QuantTypeSpec, count: int) -> np.ndarray:
    """Any bytes at all: every code, every scale, infinities and NaNs among them."""
    return np.random.default_rng(spec.ggml_id).integers(0, 256, (count, spec.block_bytes), np.uint8)


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal bit for bit, -0 unlike +0; which NaN it is does not matter."""
    nan = np.isnan(found) & np.isnan(expected)
    return bool(np.all(nan | (found.view(np.uint32) == expected.view(np.uint32))))


def test_all_are_here():
    assert set(SPECS) == set(AFFINE) | set(FLOATS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_geometry_is_ggmls(spec):
    theirs = gguf.GGMLQuantizationType[spec.name]
    assert spec.ggml_id == theirs
    assert (spec.block_elements, spec.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_random_blocks_bit_for_bit(spec):
    blocks = random_blocks(spec, 3000)
    with np.errstate(invalid="ignore", over="ignore"):
        found = spec.load().dequantize_blocks(blocks)
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(spec.ggml_id))
    assert found.shape == (3000, spec.block_elements)
    assert found.dtype == np.float32
    assert same_bits(found, expected.reshape(found.shape))


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_run_layout_has_the_same_numbers(spec):
    blocks = random_blocks(spec, 1200)
    quant = spec.load()
    assert isinstance(quant, RunnableQuantType)
    with np.errstate(invalid="ignore", over="ignore"):
        run = quant.to_run(blocks, rows=300)
        found = expand(run)
        expected = quant.dequantize_blocks(blocks).reshape(300, -1)
        offsets = run.offset_values() if isinstance(run, AffineRun) else np.zeros(())
    # Scales that are infinite or no number at all have no sensible sum; real files hold none.
    finite = np.isfinite(expected) & np.isfinite(found)
    assert finite.mean() > 0.8
    if spec.name in AFFINE:
        finite &= np.isfinite(offsets).repeat(run.group, axis=1)
        span = run.codes.shape[1] // run.scales.units.shape[1]
        zero = run.offsets if isinstance(run.offsets, int) else None
        assert (run.bits, run.group, span, zero) == AFFINE[spec.name]
        assert run.scales.units.dtype == np.float16
        assert run.codes.dtype == np.uint8
        assert run.codes.max() < 2**run.bits
    else:
        assert run.values.dtype == FLOATS[spec.name]
    # Equal as numbers: a weight of zero may be -0 in one and +0 in the other.
    np.testing.assert_array_equal(found[finite], expected[finite])


def expand(run: AffineRun | FloatRun) -> np.ndarray:
    """A run layout as an engine would compute it: one multiply, one add, in float32."""
    if isinstance(run, FloatRun):
        wide = run.values.astype(np.uint32) << 16 if run.values.dtype == np.uint16 else None
        return run.values.astype(np.float32) if wide is None else wide.view(np.float32)
    scales = run.scales.values().repeat(run.group, axis=1)
    product = scales * run.codes
    # The promise that makes a fused multiply-add give the same bits: this product is exact.
    np.testing.assert_array_equal(product, scales.astype(np.float64) * run.codes)
    return product + run.offset_values().repeat(run.group, axis=1)


def probes() -> list:
    """Each tensor of each fixture file, with values ggml itself dequantised."""
    params = []
    for name in (*(f"llama_spm.{kind}" for kind in KINDS), "llama3_bpe.q4_k_m"):
        model, kind = name.split(".")
        params.append(pytest.param(name, zoo.reference(f"{model}.tensors")["files"][kind], id=name))
    return params


@pytest.mark.parametrize(("name", "tensors"), probes())
def test_real_files_have_the_values_ggml_reads(name, tensors):
    with open_gguf(zoo.model_path(name)) as file:
        weights = Weights(file, registered())
        assert {tensor["name"] for tensor in tensors} == set(weights.names())
        for tensor in tensors:
            info = weights.info(tensor["name"])
            assert (info.type, list(info.shape[::-1])) == (tensor["type"], tensor["ne"])
            values = weights.dequantize(info.name)
            found = values.reshape(-1)[tensor["probe_idx"]]
            # The probes are written with 8 digits.
            assert [float(f"{value:.8g}") for value in found] == tensor["probe"]
            assert np.abs(values).max() == pytest.approx(tensor["absmax"], rel=1e-5)
            np.testing.assert_array_equal(expand(weights.run_layout(info.name)), values)


def test_registering_imports_no_numpy():
    names = [f"shimmy_plugins.quants.{name}" for name in MODULES]
    code = (
        "import sys; from importlib import import_module\n"
        f"for name in {names}: import_module(name).register_quant_types(lambda spec: None)\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
