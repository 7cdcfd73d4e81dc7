"""A model's weights in GPU memory: loaded once, in few buffers, merged where layouts agree."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shimmy.errors import OutOfMemoryError, PluginError
from shimmy.gguf.quant import AffineRun, FloatRun, Scales
from shimmy_plugins.backends.wgpu import weights as module
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.weights import GpuWeights
from tests.backend.harness import Affine, MadeUpWeights, affine, floats
from tests.backend.wgpu.test_layouts import assert_reads, read

RNG = np.random.default_rng(5)
Q4 = Affine(4, 32, centred=True)
VECTOR = np.arange(5, dtype=np.float32)


@pytest.fixture
def made_up() -> MadeUpWeights:
    """Rows of one, two and three blocks; an odd number of half floats is no whole number of words."""
    return MadeUpWeights(
        q=affine(RNG, 7, 96, Q4),
        k=affine(RNG, 3, 96, Q4),
        v=affine(RNG, 3, 96, Affine(4, 32)),
        up=affine(RNG, 3, 64, Q4),
        head=floats(RNG, 11, 33),
    ).with_vectors(norm__weight=VECTOR)


def test_tensors_one_below_the_other(gpu: Gpu, tmp_path: Path, made_up: MadeUpWeights) -> None:
    loaded = GpuWeights(gpu, made_up)
    both = loaded.matrix(["q.weight", "k.weight"])
    assert (both.rows, both.columns) == (10, 96)
    assert loaded.matrix(["q.weight", "k.weight"]) is both
    expected = np.concatenate([made_up.dequantize("q.weight"), made_up.dequantize("k.weight")])
    assert_reads(read(gpu, tmp_path, both, "values"), expected)
    np.testing.assert_array_equal(gpu.read(loaded.vector("norm.weight"), np.float32), VECTOR)
    assert loaded.vector("norm.weight") is loaded.vector("norm.weight")
    assert loaded.bytes == both.layout.bytes(10, 96) + VECTOR.nbytes


@pytest.mark.parametrize(
    ("names", "mergeable"),
    [
        (["q.weight"], True),
        (["q.weight", "k.weight"], True),
        (["q.weight", "v.weight"], False),
        (["q.weight", "up.weight"], False),
    ],
)
def test_what_can_be_one_matrix(gpu: Gpu, made_up: MadeUpWeights, names: list[str], mergeable: bool) -> None:
    loaded = GpuWeights(gpu, made_up)
    assert loaded.mergeable(names) is mergeable
    if not mergeable:
        with pytest.raises(ValueError, match="one layout and width"):
            loaded.matrix(names)


def test_slices_share_buffers(gpu: Gpu, made_up: MadeUpWeights) -> None:
    loaded = GpuWeights(gpu, made_up)
    matrices = [loaded.matrix([f"{name}.weight"]) for name in ("q", "k", "v", "up", "head")]
    slices = [place for matrix in matrices for place in matrix.slices]
    assert len({id(place.buffer) for place in slices}) < len(slices) / 2
    spans = sorted((id(s.buffer), s.offset, s.offset + s.size) for s in slices)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(spans))
    assert all(s.offset % 256 == 0 and s.offset + s.size <= s.buffer.size for s in slices)


def test_buffers_have_no_more_room_than_is_needed(gpu: Gpu, made_up: MadeUpWeights) -> None:
    names = {"q.weight", "up.weight", "head.weight"}
    loaded = GpuWeights(gpu, made_up, names=names)
    before = gpu.used
    matrices = [loaded.matrix([name]) for name in sorted(names)]
    assert gpu.used - before == sum(map(loaded.size_of, names))
    assert loaded.bytes <= gpu.used - before < loaded.bytes + 256 * sum(len(m.slices) for m in matrices)


def test_large_models_fill_several_buffers(
    gpu: Gpu, tmp_path: Path, made_up: MadeUpWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ARENA_BYTES", 1024)
    monkeypatch.setattr(module, "SLICE_ELEMENTS", 200)  # two rows
    loaded = GpuWeights(gpu, made_up)
    matrices = {name: loaded.matrix([f"{name}.weight"]) for name in ("q", "k", "v", "up", "head")}
    assert len({id(place.buffer) for matrix in matrices.values() for place in matrix.slices}) > 1
    for name, matrix in matrices.items():
        assert_reads(read(gpu, tmp_path, matrix, "values"), made_up.dequantize(f"{name}.weight"))


def test_a_matrix_that_cannot_be_bound_is_told(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    most = gpu.limits.storage_binding
    rows = most // 128 + 1  # of 32 floats, one row more than can be bound

    class Huge(MadeUpWeights):
        def shape(self, name: str) -> tuple[int, ...]:
            return (rows, 32)

    huge = Huge(head=FloatRun(np.ones((1, 32), np.float32)))
    message = f"head.weight: takes {rows * 128:,} bytes .* can use {most:,}"
    with pytest.raises(OutOfMemoryError, match=message):
        GpuWeights(gpu, huge).matrix(["head.weight"])


def test_a_tensor_has_one_form(gpu: Gpu) -> None:
    class Moody(MadeUpWeights):
        """Scales of one kind or another."""

        def run_layout(self, name: str, rows: slice | None = None) -> AffineRun | FloatRun:
            count = 1 if rows == slice(0, 1) else 4
            units = np.ones((count, 1), np.float16 if count == 1 else np.float32)
            return AffineRun(np.zeros((count, 32), np.uint8), 4, 32, Scales(units), 8)

    weights = Moody(w=affine(RNG, 4, 32, Q4))
    message = "'w.weight': .* rows 0 to 3 the run layout affine4_32_f4_zero8, where .*_f2_zero8"
    with pytest.raises(PluginError, match=message):
        GpuWeights(gpu, weights).matrix(["w.weight"])
