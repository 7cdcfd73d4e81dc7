"""Rows in 8 bits on the GPU, against the definition in NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.graph import reference
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.ops.norm import Norm
from shimmy_plugins.backends.wgpu.ops.quantize import code_bytes, quantize, scale_bytes
from tests.backend.wgpu.kernels import COMPOSER, run_kernel, step_of

F32 = NDArray[np.float32]
EPS = 1e-5


def blocks_of(x: F32) -> F32:
    """(rows, blocks, 32), the last block of a row filled up with zeros."""
    padded = np.zeros((len(x), -(-x.shape[1] // 32) * 32), np.float32)
    padded[:, : x.shape[1]] = x
    return padded.reshape(len(x), -1, 32)


def quantised(x: F32) -> tuple[F32, F32]:
    """(unrounded codes (rows, blocks, 32), scales (rows, blocks))."""
    blocks = blocks_of(x)
    largest = np.abs(blocks).max(axis=2)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-30)
    return blocks * inverse[..., None], largest / np.float32(127)


@dataclass
class Found:
    """As the GPU computes it."""

    codes: F32
    """(rows, blocks, 32)."""
    scales: F32
    """(rows, blocks)."""
    sums: NDArray[np.int16]
    """(rows, blocks, 2)."""


def run(gpu: Gpu, columns: int, x: F32, norm: Norm | None = None, *weights: F32) -> Found:
    rows = len(x)
    size, step = step_of(rows)
    kernel = quantize(COMPOSER, gpu, columns, norm)
    xq = gpu.buffer(rows * code_bytes(columns), "xq")
    xd = gpu.buffer(rows * scale_bytes(columns), "xd")
    run_kernel(gpu, kernel, size, [x, *([np.concatenate(weights)] if weights else []), xq, xd, step])
    codes = gpu.read(xq, np.int8).reshape(rows, -1, 32).astype(np.float32)
    scales = gpu.read(xd, np.float32).reshape(rows, -1, 2)[..., 0]
    return Found(codes, scales, gpu.read(xd, np.int16).reshape(rows, -1, 4)[..., 2:])


def check(found: Found, x: F32) -> None:
    """Codes are the nearest integers, but for what lies a rounding error away from two; sums are exact."""
    unrounded, scales = quantised(x)
    assert np.abs(found.codes - unrounded).max() <= 0.5 + 1e-4
    np.testing.assert_allclose(found.scales, scales, rtol=1e-5)
    halves = found.codes.reshape(*found.scales.shape, 2, 16)
    np.testing.assert_array_equal(found.sums, halves.sum(axis=3))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("columns", [16, 32, 48, 576, 1024, 1040, 2080])
def test_rows_as_they_are(gpu: Gpu, rows: int, columns: int) -> None:
    x = np.random.default_rng(columns).normal(size=(rows, columns)).astype(np.float32)
    check(run(gpu, columns, x), x)


@pytest.mark.parametrize("columns", [16, 576, 1040])
def test_rows_normed_before(gpu: Gpu, columns: int) -> None:
    rng = np.random.default_rng(2)
    x, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((6, columns), (columns,)))
    check(run(gpu, columns, x, Norm(EPS), weight), reference.rms_norm(x, weight=weight, eps=EPS))
    bias = rng.normal(size=columns).astype(np.float32)
    found = run(gpu, columns, x, Norm(EPS, centred=True, bias=True), weight, bias)
    check(found, reference.layer_norm(x, weight=weight, eps=EPS, bias=bias))


def test_halves_round_to_even(gpu: Gpu) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :7] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    found = run(gpu, 32, x)
    np.testing.assert_array_equal(found.codes[0, 0, :7], [127, 0, 2, 2, 0, -2, -2])
    assert found.scales[0, 0] == 1


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_damage_is_not_hidden(gpu: Gpu, damage: float) -> None:
    x = np.random.default_rng(4).normal(size=(4, 64)).astype(np.float32)
    x[0], x[1, 5], x[2] = 0, damage, 1e-38
    found = run(gpu, 64, x)
    assert not found.codes[[0, 2]].any()
    assert not found.scales[0].any()
    assert not np.isfinite(found.scales[1, 0])
    assert np.isfinite(found.scales[1, 1])
    assert np.isfinite(found.scales[[0, 2, 3]]).all()
