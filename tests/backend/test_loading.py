"""Weights on their way from a file to the CPU kernels: lossless, compact, whoever takes blocks apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from shimmy.errors import PluginError
from shimmy.gguf.quant import AffineRun, RunnableQuantType, Scales, UnpackedQuantType
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.gguf.writer import RawTensor, write_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec
from shimmy_plugins.backends.cpu.backend import CpuBackend
from shimmy_plugins.backends.cpu.jit import Jit, Target
from shimmy_plugins.backends.cpu.layouts import Packed
from shimmy_plugins.backends.cpu.loading import PackedWeights
from shimmy_plugins.backends.cpu.object_cache import ObjectCache
from tests.backend.harness import (
    LARGER,
    LARGER_OTHERS,
    LIMITS,
    PLUGINS,
    Part,
    batch_of,
    graph_of,
    no_progress,
    rows_of,
)

SPECS = {spec.name: spec for spec in PLUGINS.quant_types}
#: Not a multiple of 16, and more than a slice of the rows.
ROWS, COLUMNS = 1057, 1024

pytestmark = pytest.mark.skipif(Target.host().problem() is not None, reason="the cpu backend cannot run here")


@dataclass(frozen=True)
class NumpyOnly:
    """A quant type that keeps its ``unpack`` to itself, as a third party's may."""

    quant: RunnableQuantType

    def dequantize_blocks(self, blocks: np.ndarray) -> np.ndarray:
        return self.quant.dequantize_blocks(blocks)

    def to_run(self, blocks: np.ndarray, rows: int) -> object:
        return self.quant.to_run(blocks, rows)


@contextmanager
def weights_of(folder: Path, spec: QuantTypeSpec) -> Iterator[Weights]:
    """A matrix of any blocks at all, infinite scales and NaNs among them."""
    path = folder / "m.gguf"
    if not path.exists():
        size = ROWS * COLUMNS // spec.block_elements * spec.block_bytes
        data = np.random.default_rng(spec.ggml_id).integers(0, 256, size, np.uint8).tobytes()
        write_gguf(path, {}, {"a.weight": RawTensor(data, spec.ggml_id, (ROWS, COLUMNS))})
    registry: Registry[QuantTypeSpec] = Registry("quant type")
    registry.add(spec.name, spec, "test")
    with open_gguf(path) as file:
        yield Weights(file, registry)


def pack(weights: Weights, cache: ObjectCache, threads: int = 2) -> tuple[Packed, list[str]]:
    """The packed matrix, and the names of the kernels that did it."""
    packed = PackedWeights(weights)
    packed.lay_out(["a.weight"])
    kernels = {kernel.name: kernel.ir for kernel in packed.kernels()}
    jit = Jit(Target.host(), cache)
    packed.load(jit.compile(kernels, no_progress), threads, no_progress)
    return packed.matrix("a.weight").data, list(kernels)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_native_code_and_numpy_pack_the_same_bytes(tmp_path: Path, spec: QuantTypeSpec) -> None:
    cache = ObjectCache(tmp_path)
    with weights_of(tmp_path, spec) as weights:
        native, kernels = pack(weights, cache)
        says_how = isinstance(spec.load(), UnpackedQuantType)
        assert [name.split("_")[0] for name in kernels] == ["pack", "unpack"][: 1 + says_how]
    with weights_of(tmp_path, replace(spec, load=lambda: NumpyOnly(spec.load()))) as weights:
        slow, kernels = pack(weights, cache, threads=1)
        assert [name.split("_")[0] for name in kernels] == ["pack"]
    assert native.tobytes() == slow.tobytes()


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_kernels_read_the_files_numbers(tmp_path: Path, spec: QuantTypeSpec) -> None:
    with weights_of(tmp_path, spec) as weights:
        graph = graph_of(weights, lambda g: g.embed("a"))
        plan = CpuBackend(cache=ObjectCache(tmp_path)).compile(graph, weights, LIMITS, no_progress)
        plan.reserve(4)
        rows = [*range(40), *range(ROWS - 40, ROWS)]
        found = rows_of(plan, batch_of([Part(rows, 0, range(4))], every_row=True))
        plan.close()
        expected = weights.dequantize("a.weight")[rows]
    # Scales that are infinite or no number at all have no sensible sum.
    finite = np.isfinite(found) & np.isfinite(expected)
    assert finite.mean() > 0.8
    np.testing.assert_array_equal(found[finite], expected[finite])


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_packed_weights_are_hardly_larger_than_the_file(tmp_path: Path, spec: QuantTypeSpec) -> None:
    with weights_of(tmp_path, spec) as weights:
        packed = PackedWeights(weights)
        packed.lay_out(["a.weight"])
        file = weights.blocks("a.weight").nbytes * -(-ROWS // 16) * 16 / ROWS
    assert packed.bytes <= LARGER.get(spec.name, LARGER_OTHERS) * file


class Moody:
    """A type whose rows come with scales of one kind or another."""

    def dequantize_blocks(self, blocks: np.ndarray) -> np.ndarray:
        return np.zeros((len(blocks), 32), np.float32)

    def to_run(self, blocks: np.ndarray, rows: int) -> AffineRun:
        units = np.ones((rows, len(blocks) // rows), np.float16 if rows == 1 else np.float32)
        return AffineRun(np.zeros((rows, len(blocks) // rows * 32), np.uint8), 4, 32, Scales(units), 8)


def test_a_tensor_has_one_form(tmp_path: Path) -> None:
    spec = QuantTypeSpec("MOODY", 99, 32, 18, Moody)
    message = "'a.weight': .* rows 0 to 511 the run layout affine4_32_32_f4_zero8, where .*_f2_zero8"
    with weights_of(tmp_path, spec) as weights, pytest.raises(PluginError, match=message):
        pack(weights, ObjectCache(tmp_path), threads=1)
