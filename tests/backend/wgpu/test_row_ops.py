"""Row ops on the GPU against their NumPy definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.graph import reference
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns
from shimmy_plugins.backends.wgpu.ops.elementwise import elementwise, last
from shimmy_plugins.backends.wgpu.ops.norm import Norm, norm
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
def test_norms(gpu: Gpu, rows: int, width: int, groups: int, subgroups: bool) -> None:
    x, weight, bias = normal(rows, groups, width) + np.float32(2), normal(width), normal(width, size=2)
    size, step = step_of(rows)
    facts = gpu if subgroups else SimpleNamespace(subgroup=0, limits=gpu.limits)
    both = np.concatenate([weight, bias])
    for how, expected in [
        (Norm(EPS), reference.rms_norm(x, weight=weight, eps=EPS)),
        (Norm(0.1, centred=True, bias=True), reference.layer_norm(x, weight=weight, eps=0.1, bias=bias)),
    ]:
        y = result(gpu, rows, groups * width)
        run_kernel(gpu, norm(COMPOSER, facts, width, how, groups), size, [x, both, y, step])
        assert_close(rows_in(gpu, y, rows, groups * width), expected.reshape(rows, -1))


def test_a_norm_with_what_is_added_to_it(gpu: Gpu) -> None:
    both, added, weight = normal(5, 100), normal(5, 48, size=3), normal(48)
    size, step = step_of(5)
    y = result(gpu, 5, 48)
    kernel = norm(COMPOSER, gpu, 48, Norm(EPS), x=Columns(48, 100, 7), added=columns(48))
    run_kernel(gpu, kernel, size, [both, added, weight, y, step])
    expected = added + reference.rms_norm(both[:, 7:55], weight=weight, eps=EPS)
    assert_close(rows_in(gpu, y, 5, 48), expected)


#: Ops of one or two inputs, with attributes.
OPS = [
    ("add", 2, {}),
    ("gelu", 1, {}),
    ("geglu", 2, {}),
    ("scale", 1, {"factor": 0.3}),
    ("softcap", 1, {"cap": 5.0}),
    ("swiglu", 2, {}),
]


def computed(gpu: Gpu, op: str, inputs: Sequence[F32], attrs: Mapping[str, float], width: int) -> F32:
    """By the kernel, of inputs side by side in one row."""
    count, x = len(inputs[0]), np.concatenate(inputs, axis=1)
    starts = np.cumsum([0, *(part.shape[1] for part in inputs)])
    places = [Columns(p.shape[1], x.shape[1], int(at)) for p, at in zip(inputs, starts, strict=False)]
    size, step = step_of(count)
    y = result(gpu, count, width)
    kernel = elementwise(COMPOSER, gpu, op, width, inputs=places, attrs=attrs)
    run_kernel(gpu, kernel, size, [*[x] * len(inputs), y, step])
    return rows_in(gpu, y, count, width)


@pytest.mark.parametrize("width", [5, 63, 2500])
@pytest.mark.parametrize(("op", "inputs", "attrs"), OPS, ids=[op for op, _, _ in OPS])
def test_elementwise(gpu: Gpu, op: str, inputs: int, attrs: Mapping[str, float], width: int) -> None:
    x = np.split(normal(5, inputs * width, size=4), inputs, axis=1)
    assert_close(computed(gpu, op, x, attrs, width), getattr(reference, op)(*x, **attrs))


def test_a_row_with_a_gate(gpu: Gpu) -> None:
    x, gate = normal(5, 700), np.array([[-1e30], [-90], [0], [0.5], [200]], np.float32)
    found = computed(gpu, "sigmoid_gate", [x, gate], {}, 700)
    np.testing.assert_allclose(found, x / (1 + np.exp(-gate.clip(-700).astype(float))), rtol=1e-5, atol=1e-30)


def test_numbers_far_from_zero(gpu: Gpu) -> None:
    """Neither overflow nor NaN, nor less than what is near zero."""
    far = np.array([[-1e30, -200, -89, -30, -1e-4, 0, 1e-4, 30, 89, 1e30]], np.float32)
    one = np.ones_like(far)
    width = far.shape[1]
    exact = {"rtol": 2e-6, "atol": 1e-7}
    gated = far / (1 + np.exp(-far.astype(float).clip(-700)))
    np.testing.assert_allclose(computed(gpu, "swiglu", [far, one], {}, width), gated, **exact)
    near = far.clip(-1, 1)
    bent = np.where(np.abs(far) < 1, far * (0.5 + 0.4 * near), np.maximum(far, 0))
    np.testing.assert_allclose(computed(gpu, "gelu", [far], {}, width), bent, **exact)
    np.testing.assert_allclose(computed(gpu, "geglu", [far, one], {}, width), bent, **exact)
    capped = 3 * np.tanh(far.astype(float) / 3)
    np.testing.assert_allclose(computed(gpu, "softcap", [far], {"cap": 3.0}, width), capped, rtol=2e-6)


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
    kernel = elementwise(COMPOSER, gpu, "add", 64, inputs=[columns(64)] * 2, late=True)
    run_kernel(gpu, kernel, size, [x, x, y, step])
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
    kernel = norm(COMPOSER, gpu, 576, Norm(EPS))
    found = []
    for rows in (x, x[37:38]):
        size, step = step_of(len(rows))
        y = result(gpu, len(rows), 576)
        run_kernel(gpu, kernel, size, [rows, weight, y, step])
        found.append(rows_in(gpu, y, len(rows), 576))
    np.testing.assert_array_equal(found[0][37], found[1][0])


def test_inputs_have_their_rows_for_themselves_by_default() -> None:
    assert columns(64) == Columns(64, 64, 0)
