"""The built-in quant types against the `gguf` package's own dequantisation, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import gguf
import numpy as np
import pytest

import shimmy_plugins.quants
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from shimmy.testing.quants import QuantConformance
from shimmy.testing.weights import expand
from tests import zoo

MODULES = sorted(
    path.stem for path in Path(shimmy_plugins.quants.__file__).parent.glob("*.py") if path.stem[0] != "_"
)
AFFINE = {  # bits, group, columns that share a unit, number of weight 0 where offsets are not stored
    "Q4_0": (4, 32, 32, 8),
    "Q4_1": (4, 32, 32, None),
    "Q5_0": (5, 32, 32, 16),
    "Q5_1": (5, 32, 32, None),
    "Q8_0": (8, 32, 32, 128),
    "Q4_K": (4, 32, 256, None),
    "Q5_K": (5, 32, 256, None),
    "Q6_K": (6, 16, 256, 32),
    "Q2_K": (2, 16, 256, None),
    "Q3_K": (3, 16, 256, 4),
    "IQ4_NL": (4, 32, 32, 127),
    "IQ4_XS": (4, 32, 256, 127),
    "MXFP4": (4, 32, 32, 12),
    "IQ1_S": (3, 32, 256, 9),
    "IQ1_M": (3, 16, 256, 9),
    "IQ2_XXS": (3, 32, 256, 43),
    "IQ2_XS": (3, 16, 256, 43),
    "IQ2_S": (3, 16, 256, 43),
    "IQ3_XXS": (4, 32, 256, 62),
    "IQ3_S": (4, 32, 256, 15),
    "TQ1_0": (2, 32, 256, 1),
    "TQ2_0": (2, 32, 256, 1),
    "Q1_0": (1, 32, 128, 1),
    "Q2_0": (2, 32, 64, 1),
}
#: What units are, if not float16: those of grids are parts of one, which it could not hold exactly.
UNITS = {"MXFP4": np.uint8} | dict.fromkeys(
    ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"), np.float32
)
#: What `gguf` cannot read yet: the values of codes, which follow each other from the lowest bit on.
NEWER = {"Q1_0": (-1, 1), "Q2_0": (-1, 0, 1, 2)}
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def registered() -> Registry[QuantTypeSpec]:
    registry: Registry[QuantTypeSpec] = Registry("quant type")
    for name in MODULES:
        module = import_module(f"shimmy_plugins.quants.{name}")
        module.register_quant_types(lambda spec, name=name: registry.add(spec.name, spec, name))
    return registry


SPECS = {spec.name: spec for spec in registered()}


def newer(blocks: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """A float16, then codes: the files of llama.cpp's own quantiser are read so by ggml, bit for bit."""
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    width = len(values).bit_length() - 1
    codes = bits.reshape(len(blocks), -1, width) @ (1 << np.arange(width))
    return np.array(values, np.float32)[codes] * blocks[:, :2].copy().view("<f2").astype(np.float32)


class TestBuiltInTypes(QuantConformance):
    """All of them, by the conformance kit."""

    count = 3000
    tolerances: ClassVar = {"f32": 1e-5}  # products in int8 have tests of their own

    @pytest.fixture(autouse=True, params=list(SPECS))
    def one_of_them(self, request: pytest.FixtureRequest):
        self.name = request.param

    def oracle(self, blocks: np.ndarray) -> np.ndarray:
        if self.name in NEWER:
            return newer(blocks, NEWER[self.name])
        return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[self.name])


def test_all_are_here():
    assert set(SPECS) == set(AFFINE) | set(FLOATS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_run_layouts_are_as_compact_as_the_files(spec):
    run = spec.load().to_run(np.zeros((12, spec.block_bytes), np.uint8), rows=3)
    if spec.name in AFFINE:
        span = run.codes.shape[1] // run.scales.units.shape[1]
        zero = run.offsets if isinstance(run.offsets, int) else None
        assert (run.bits, run.group, span, zero) == AFFINE[spec.name]
        assert run.scales.units.dtype == UNITS.get(spec.name, np.float16)
    else:
        assert run.values.dtype == FLOATS[spec.name]


def probes() -> list:
    """Each tensor of each file at hand, with values ggml itself dequantised."""
    params = []
    for name in zoo.FILES:
        model, kind = name.split(".")
        if tensors := zoo.reference(f"{model}.tensors")["files"].get(kind):
            params.append(pytest.param(name, tensors, id=name))
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
