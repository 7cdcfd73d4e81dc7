"""Run layouts that no engine could read are refused where they are made, and told by the tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shimmy.errors import PluginError
from shimmy.gguf.quant import AffineRun, Scales
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec


def run(bits: int, group: int, groups: int, codebook: tuple[int, ...] = ()) -> AffineRun:
    """Two rows of 64 columns."""
    scales = Scales(np.ones((2, groups), np.float16))
    return AffineRun(np.zeros((2, 64), np.uint8), bits, group, scales, 0, codebook)


@pytest.mark.parametrize(("bits", "numbers"), [(5, 32), (4, 15), (3, 16)])
def test_a_codebook_has_a_number_for_each_code(bits: int, numbers: int) -> None:
    with pytest.raises(PluginError, match=f"{numbers} numbers for codes of {bits} bits"):
        run(bits, 32, 2, tuple(range(numbers)))


@pytest.mark.parametrize(("bits", "group"), [(9, 32), (0, 32), (4, 8), (4, 64)])
def test_what_no_kernel_could_read_is_told(bits: int, group: int) -> None:
    with pytest.raises(PluginError, match=f"codes of {bits} bits in groups of {group} columns; expected"):
        run(bits, group, 64 // group)


def test_scales_are_for_the_groups_there_are() -> None:
    with pytest.raises(PluginError, match=r"for 1 groups of columns in a row; expected 2 groups of 32\."):
        run(4, 32, 1)


class Narrow:
    """A quant type, level 1, with a scale for 8 columns."""

    def dequantize_blocks(self, blocks: np.ndarray) -> np.ndarray:
        return blocks.astype(np.float32)

    def to_run(self, blocks: np.ndarray, rows: int) -> AffineRun:
        scales = Scales(np.ones((rows, blocks.size // rows // 8), np.float16))
        return AffineRun(blocks.reshape(rows, -1), 8, 8, scales, 0)


def test_the_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", {}, {"a.weight": RawTensor(bytes(64), 90, (2, 32))})
    registry: Registry[QuantTypeSpec] = Registry("quant type")
    registry.add("NARROW", QuantTypeSpec("NARROW", 90, 32, 32, Narrow), "test")
    with open_gguf(tmp_path / "m.gguf") as file:
        weights = Weights(file, registry)
        with pytest.raises(PluginError, match=r"tensor 'a\.weight' of type NARROW: .* groups of 8 columns"):
            weights.run_layout("a.weight")
