"""Blocks of a file taken apart by the GPU: the same words as NumPy's, whatever the type says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from shimmy.gguf.blocks import BlockType
from shimmy.gguf.quant import BlockParts, BlockScales, RunnableQuantType, UnpackedQuantType
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.backends.wgpu import unpacking
from shimmy_plugins.backends.wgpu import weights as module
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.layouts import layout_of
from shimmy_plugins.backends.wgpu.weights import GpuWeights
from tests.backend.harness import PLUGINS
from tests.backend.wgpu.kernels import COMPOSER


def thirds(block):
    """3 bits, of which the upper one is in bytes of its own; a signed scale for 16 columns; odd bytes."""
    low = block.bytes(9, 16)
    codes = block.join(*(low.field(first, 2) for first in (0, 2, 4, 6)))
    high = block.bytes(1, 8).spread(1) << 2
    return BlockParts(codes | high, 3, BlockScales(block.half(25), block.bytes(27, 4), signed=True), 4)


def offsets_of_another_kind(block):
    """Scales in factors of a unit, one offset."""
    codes = block.bytes(2, 32) ^ 255
    return BlockParts(codes, 8, BlockScales(block.half(0)), BlockScales(block.half(34, negative=True)))


def wide(block):
    """128 weights with a scale of 16 each, and one offset."""
    codes = block.bytes(12, 32).spread(2)
    return BlockParts(codes, 2, BlockScales(block.half(0), block.bytes(2, 8)), BlockScales(block.half(10)))


def half_words(block):
    """A scale for 16 columns, in two bytes."""
    codes = block.join(block.bytes(4, 16).field(0, 4), block.bytes(4, 16).field(4, 4))
    return BlockParts(codes, 4, BlockScales(block.half(0), block.bytes(2, 2)), 8)


ODD = [
    QuantTypeSpec("THIRDS", 90, 64, 31, lambda: BlockType(thirds)),
    QuantTypeSpec("INVERSE", 91, 32, 36, lambda: BlockType(offsets_of_another_kind)),
    QuantTypeSpec("WIDE", 94, 128, 44, lambda: BlockType(wide)),
]
#: With factors of a block that are no whole words.
SHORT = PLUGINS.quant_types.get("Q2_0")
TYPES = [
    *(
        spec
        for spec in PLUGINS.quant_types
        if isinstance(spec.load(), UnpackedQuantType) and spec is not SHORT
    ),
    *ODD,
]


@contextmanager
def weights_of(folder: Path, spec: QuantTypeSpec) -> Iterator[Weights]:
    """Two matrices of any blocks at all, with odd numbers of rows, and of blocks in a row."""
    tensors = {}
    for name, rows in (("a", 5), ("b", 7)):
        columns = 3 * max(spec.block_elements, 32)
        size = rows * columns // spec.block_elements * spec.block_bytes
        data = np.random.default_rng(rows).integers(0, 256, size, np.uint8).tobytes()
        tensors[name] = RawTensor(data, spec.ggml_id, (rows, columns))
    write_gguf(folder / "m.gguf", {}, tensors)
    registry: Registry[QuantTypeSpec] = Registry("quant type")
    registry.add(spec.name, spec, "test")
    with open_gguf(folder / "m.gguf") as file:
        yield Weights(file, registry)


def words(gpu: Gpu, loaded: GpuWeights) -> list[np.ndarray]:
    """What the parts of the matrix hold."""
    return [gpu.read(place, np.uint32) for place in loaded.matrix(["a", "b"]).slices]


@pytest.mark.parametrize("spec", TYPES, ids=lambda spec: spec.name)
def test_the_gpu_makes_the_words_that_numpy_makes(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: QuantTypeSpec
) -> None:
    with weights_of(tmp_path, spec) as weights:
        expected = words(gpu, GpuWeights(gpu, weights))
        monkeypatch.setattr(module, "pack", None)  # nobody asks NumPy
        for chunk in (unpacking.CHUNK_BYTES, 3 * weights.blocks("a", slice(0, 1)).nbytes):
            monkeypatch.setattr(unpacking, "CHUNK_BYTES", chunk)
            found = words(gpu, GpuWeights(gpu, weights, COMPOSER))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)


class NumpyOnly:
    """A quant type that keeps its ``unpack`` to itself, as a third party's may."""

    def __init__(self, quant: RunnableQuantType) -> None:
        self.dequantize_blocks, self.to_run = quant.dequantize_blocks, quant.to_run


@pytest.mark.parametrize(
    "spec",
    [
        SHORT,
        QuantTypeSpec("HALF WORDS", 92, 32, 20, lambda: BlockType(half_words)),
        QuantTypeSpec("NUMPY ONLY", 93, 64, 31, lambda: NumpyOnly(BlockType(thirds))),
    ],
    ids=lambda spec: spec.name,
)
def test_numpy_does_what_the_gpu_cannot(gpu: Gpu, tmp_path: Path, spec: QuantTypeSpec) -> None:
    with weights_of(tmp_path, spec) as weights:
        quant = weights.unpacked_type("a")
        layout = layout_of(weights.run_layout("a"))
        assert quant is None or unpacking.unpacking(quant, layout) is None  # type: ignore[arg-type]
        found = words(gpu, GpuWeights(gpu, weights, COMPOSER))
        for one, other in zip(found, words(gpu, GpuWeights(gpu, weights)), strict=True):
            np.testing.assert_array_equal(one, other)
