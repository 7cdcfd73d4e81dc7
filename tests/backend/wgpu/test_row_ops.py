"""Row ops on the GPU against their NumPy definitions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.graph import reference
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns
from shimmy_plugins.backends.wgpu.ops.elementwise import add, last, swiglu
from shimmy_plugins.backends.wgpu.ops.rms_norm import rms_norm
from shimmy_plugins.backends.wgpu.ops.row import columns, row_op
from tests.backend.harness import assert_close
from tests.backend.wgpu.kernels import COMPOSER, SHADERS, run_kernel, step_of

F32 = NDArray[np.float32]
EPS = 1e-5
#: Sentinel behind the rows: kernels write only what is theirs.
UNTOUCHED = np.float32(7.5)


def normal(*shape: int, size: float = 1.0) -> F32:
    return np.random.default_rng(1).normal(0, size, shape).astype(np.float32)


def result(gpu: Gpu, rows: int, width: int):
    """A buffer of one row more than a step has."""
    buffer = gpu.buffer((rows + 1) * width * 4, "y")
    gpu.upload(buffer, np.full((rows + 1) * width, UNTOUCHED))
    return buffer


def rows_in(gpu: Gpu, buffer, rows: int, width: int) -> F32:
    found = gpu.read(buffer, np.float32).reshape(rows + 1, width)
    assert (found[rows] == UNTOUCHED).all()
    return found[:rows]


@pytest.mark.parametrize("subgroups", [True, False])
@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize(("width", "groups"), [(1, 1), (48, 1), (576, 1), (2048, 1), (64, 9), (100, 3)])
def test_rms_norm(gpu: Gpu, rows: int, width: int, groups: int, subgroups: bool) -> None:
    x, weight = normal(rows, groups, width), normal(width)
    size, step = step_of(rows)
    y = result(gpu, rows, groups * width)
    facts = gpu if subgroups else SimpleNamespace(subgroup=0, limits=gpu.limits)
    run_kernel(gpu, rms_norm(COMPOSER, facts, width, EPS, groups), size, [x, weight, y, step])
    expected = reference.rms_norm(x, weight=weight, eps=EPS).reshape(rows, -1)
    assert_close(rows_in(gpu, y, rows, groups * width), expected)


@pytest.mark.parametrize("width", [1, 63, 576, 1500])
def test_swiglu_of_halves_of_a_row(gpu: Gpu, width: int) -> None:
    both = normal(5, 2 * width, size=20)
    size, step = step_of(5)
    y, x = result(gpu, 5, width), both.copy()
    gate, up = Columns(width, 2 * width), Columns(width, 2 * width, width)
    kernel = swiglu(COMPOSER, gpu, width, gate=gate, up=up)
    run_kernel(gpu, kernel, size, [x, x, y, step])
    assert_close(rows_in(gpu, y, 5, width), reference.swiglu(both[:, :width], both[:, width:]))


def test_swiglu_far_from_zero(gpu: Gpu) -> None:
    gate = np.array([[-1e30, -200, -89, -1, 0, 1, 89, 1e30]], np.float32)
    size, step = step_of(1)
    y = result(gpu, 1, 8)
    run_kernel(gpu, swiglu(COMPOSER, gpu, 8), size, [gate, np.ones_like(gate), y, step])
    found = rows_in(gpu, y, 1, 8)[0]
    np.testing.assert_allclose(found, [0, 0, 0, -0.26894142, 0, 0.7310586, 89, 1e30], rtol=1e-6, atol=1e-7)


def test_add(gpu: Gpu) -> None:
    a, b = normal(33, 300), normal(33, 300, size=3)
    size, step = step_of(33)
    y = result(gpu, 33, 300)
    run_kernel(gpu, add(COMPOSER, gpu, 300), size, [a, b, y, step])
    np.testing.assert_array_equal(rows_in(gpu, y, 33, 300), a + b)


def test_last(gpu: Gpu) -> None:
    x, outputs = normal(9, 70), [0, 4, 8]
    size, step = step_of(9, outputs, first_output=2)
    y = result(gpu, 5, 70)
    run_kernel(gpu, last(COMPOSER, gpu, 70), size, [x, y, step])
    found = rows_in(gpu, y, 5, 70)
    np.testing.assert_array_equal(found[2:], x[outputs])
    assert (found[:2] == UNTOUCHED).all()


def test_rows_behind_last_are_outputs(gpu: Gpu) -> None:
    x = normal(3, 64)
    size, step = step_of(9, [3, 8], first_output=1)
    y = result(gpu, 3, 64)
    run_kernel(gpu, add(COMPOSER, gpu, 64, late=True), size, [x, x, y, step])
    found = rows_in(gpu, y, 3, 64)
    np.testing.assert_array_equal(found[1:], x[1:] + x[1:])
    assert (found[0] == UNTOUCHED).all()


def test_a_row_op_of_somebody_else(gpu: Gpu, tmp_path: Path) -> None:
    """One file with weights and attributes, some columns of its input's rows."""
    (tmp_path / "cap.wgsl").write_text(
        """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> ${weights[0]}: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
# include "shimmy/common/row.wgsl"

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    if (at.x >= rows()) { return; }
    for (var i = li; i < ${width}u; i += ${workgroup}u) {
        y[result(at.x) + i] = min(x[input0(at.x) + i], ${attrs.cap}) + shift[i];
    }
}
"""
    )
    composer = Composer({"shimmy": SHADERS, "acme": tmp_path})
    kernel = row_op(
        composer,
        gpu,
        "acme/cap.wgsl",
        inputs=[Columns(5, 12, 4)],
        weights=["shift"],
        width=5,
        attrs={"cap": 0.5},
    )
    x, shift = normal(6, 12), normal(5)
    size, step = step_of(6)
    y = result(gpu, 6, 5)
    run_kernel(gpu, kernel, size, [x, shift, y, step])
    np.testing.assert_array_equal(rows_in(gpu, y, 6, 5), np.minimum(x[:, 4:9], np.float32(0.5)) + shift)


def test_a_row_does_not_depend_on_others(gpu: Gpu) -> None:
    x, weight = normal(70, 576), normal(576)
    kernel = rms_norm(COMPOSER, gpu, 576, EPS)
    found = []
    for rows in (x, x[37:38]):
        size, step = step_of(len(rows))
        y = result(gpu, len(rows), 576)
        run_kernel(gpu, kernel, size, [rows, weight, y, step])
        found.append(rows_in(gpu, y, len(rows), 576))
    np.testing.assert_array_equal(found[0][37], found[1][0])


def test_inputs_have_their_rows_for_themselves_by_default() -> None:
    assert columns(64) == Columns(64, 64, 0)
