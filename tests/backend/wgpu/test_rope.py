"""Rotary embeddings on the GPU against the NumPy definition, at positions near and far."""

from __future__ import annotations

import numpy as np
import pytest

from shimmy.graph import reference
from shimmy.graph.batch import Batch
from shimmy.graph.rope import rope_frequencies
from shimmy.graph.scaling import PLAIN, RopeScaling, Yarn
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Size
from shimmy_plugins.backends.wgpu.ops.rope import Rotation, angle_table, rope
from shimmy_plugins.backends.wgpu.step import phase_words
from tests.backend.wgpu.kernels import COMPOSER, run_kernel

YARN = RopeScaling(yarn=Yarn(4.0, 4096), magnitude=1.5)


@pytest.mark.parametrize("scaling", [PLAIN, RopeScaling(linear=2.0), YARN], ids=["plain", "linear", "yarn"])
@pytest.mark.parametrize("style", ["interleaved", "half"])
@pytest.mark.parametrize(("head_dim", "dims"), [(64, 64), (80, 32), (20, 6), (7, 2), (128, 128)])
def test_rope(gpu: Gpu, head_dim: int, dims: int, style: str, scaling: RopeScaling) -> None:
    heads, rng = 3, np.random.default_rng(5)
    positions = np.array([0, 1, 2, 777, 99_999, 100_000], np.int32)
    batch = Batch(
        np.zeros_like(positions),
        positions,
        np.zeros_like(positions),
        np.zeros((1, 1), np.int32),
        positions[:0],
    )
    # The heads are the middle of a row, and go to the end of another.
    rows = rng.normal(size=(len(positions), heads * head_dim + 9)).astype(np.float32)
    factors = rng.uniform(1, 3, dims // 2).astype(np.float32)
    table = angle_table(rope_frequencies(1e4, dims, scaling, factors), 100_001)
    x = Columns(heads * head_dim, rows.shape[1], 4)
    y = Columns(heads * head_dim, heads * head_dim + 5, 5)
    kernel = rope(COMPOSER, Rotation(dims, style), heads, head_dim, x, y)
    result = gpu.buffer(len(rows) * y.stride * 4, "y")
    step = phase_words(batch, slice(0, len(rows)), 0)
    run_kernel(gpu, kernel, Size(len(rows), 0, len(table)), [rows, result, step, table])
    got = gpu.read(result, np.float32).reshape(len(rows), -1)
    expected = reference.rope(
        rows[:, 4:-5].reshape(len(rows), heads, head_dim),
        base=1e4,
        dims=dims,
        style=style,
        scaling=scaling,
        batch=batch,
        factors=factors,
    )
    np.testing.assert_array_equal(got[:, :5], 0)
    np.testing.assert_allclose(got[:, 5:].reshape(expected.shape), expected, rtol=0, atol=2e-6)
