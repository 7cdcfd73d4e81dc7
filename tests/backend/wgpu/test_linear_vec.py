"""linear for generated rows against NumPy: layouts, odd shapes, what comes before and after it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest

from shimmy.gguf.quant import AffineRun, FloatRun, Scales
from shimmy.graph import reference
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Size
from shimmy_plugins.backends.wgpu.layouts import layout_of
from shimmy_plugins.backends.wgpu.ops import linear_vec
from shimmy_plugins.backends.wgpu.ops.ending import GATED, Ending, width_of
from shimmy_plugins.backends.wgpu.ops.norm import Norm
from shimmy_plugins.backends.wgpu.weights import GpuWeights
from tests.backend.harness import AFFINE, F32, Affine, MadeUpWeights, affine, assert_close, floats
from tests.backend.test_int8 import as_quantised
from tests.backend.wgpu.kernels import COMPOSER, buffer_of, run_kernel, step_of
from tests.backend.wgpu.test_layouts import ODD

Q4 = Affine(4, 32, centred=True)
EPS = 1e-5
RMS = Norm(EPS)


@dataclass
class Limited:
    """A GPU with less than there is; kernels are made for it, and run on the whole one."""

    gpu: Gpu
    subgroup: int
    workgroup_memory: int
    workgroups: int = 65535

    @property
    def limits(self):
        return replace(self.gpu.limits, workgroup_memory=self.workgroup_memory, workgroups=self.workgroups)


@dataclass
class Product:
    """A product with what comes before and after it."""

    run: AffineRun | FloatRun
    precision: Literal["f32", "int8"] = "f32"
    norm: Norm | None = None
    ending: Ending = "store"
    bias: bool = False

    def __post_init__(self) -> None:
        rng = np.random.default_rng(3)
        self.weights = MadeUpWeights(w=self.run)
        self.matrix = self.weights.dequantize("w.weight")
        rows, columns = self.matrix.shape
        self.norm_weight = rng.normal(1, 0.2, columns).astype(np.float32)
        self.norm_bias = rng.normal(0, 0.5, columns).astype(np.float32)
        self.bias_values = rng.normal(size=rows).astype(np.float32)

    def expected(self, x: F32, y: F32) -> F32:
        """By the definitions of the ops, in F64 where the order of additions matters."""
        x = self.normed(x)
        if self.precision == "int8" and isinstance(self.run, AffineRun):
            x, _ = as_quantised(x)
        product = (x.astype(np.float64) @ self.matrix.T.astype(np.float64)).astype(np.float32)
        if self.bias:
            product += self.bias_values
        return ended(product, self.ending, y)

    def normed(self, x: F32) -> F32:
        if self.norm is None:
            return x
        if not self.norm.centred:
            return reference.rms_norm(x, weight=self.norm_weight, eps=self.norm.eps)
        bias = self.norm_bias if self.norm.bias else None
        return reference.layer_norm(x, weight=self.norm_weight, eps=self.norm.eps, bias=bias)

    @property
    def norm_numbers(self) -> list[F32]:
        """What is bound of the norm."""
        if self.norm is None:
            return []
        both = [self.norm_weight, self.norm_bias]
        return [np.concatenate(both[: 2 if self.norm.bias else 1])]

    def kernels(self, on: Gpu | Limited, **how: bool) -> linear_vec.VecKernels:
        return linear_vec.linear_vec(
            COMPOSER,
            on,  # type: ignore[arg-type]
            layout_of(self.run),
            *self.matrix.shape,
            precision=self.precision,
            norm=self.norm,
            ending=self.ending,
            bias=self.bias,
            **how,
        )

    def found(self, gpu: Gpu, x: F32, y: F32, on: Gpu | Limited | None = None) -> F32:
        """By the kernels that a step takes."""
        return self.compute(gpu, self.kernels(on or gpu), *step_of(len(x)), x, y)

    def compute(
        self, gpu: Gpu, kernels: linear_vec.VecKernels, size: Size, step: np.ndarray, x: F32, y: F32
    ) -> F32:
        """All dispatches; those with nothing to do for so many rows are left out, as in a step."""
        parts = GpuWeights(gpu, self.weights).matrix(["w.weight"]).slices
        norm, bias = self.norm_numbers, [self.bias_values] * self.bias
        prepared = [gpu.buffer(size.rows * row, "prepared") for row in kernels.row_bytes]
        result = buffer_of(gpu, y)
        last = min(sum(size.rows > rows for rows in kernels.rows), len(kernels.several) - 1)
        dispatches = [
            (kernels.one, [*parts, *norm, *bias, x, result, step]),
            (kernels.prepare, [x, *norm, *prepared, step]),
            (kernels.several[last], [*parts, *bias, *prepared, result, step]),
        ]
        for kernel, bindings in dispatches:
            if all(kernel.grid(size)):
                run_kernel(gpu, kernel, size, bindings)
        return gpu.read(result, np.float32).reshape(y.shape)

    def operands(self, count: int) -> tuple[F32, F32]:
        """Rows of x, and of what is in y."""
        rng = np.random.default_rng(count)
        rows, columns = self.matrix.shape
        width = width_of(rows, self.ending)
        return (
            rng.normal(size=(count, columns)).astype(np.float32),
            rng.normal(size=(count, width)).astype(np.float32),
        )

    def check(self, gpu: Gpu, on: Gpu | Limited | None = None, *, counts: Sequence[int]) -> None:
        """Right, and each row with the bits it has alone."""
        for count in counts:
            x, y = self.operands(count)
            found = self.found(gpu, x, y, on)
            assert_close(found, self.expected(x, y))
            for row in {0, count - 1}:
                alone = self.found(gpu, x[row : row + 1], y[row : row + 1], on)
                np.testing.assert_array_equal(found[row : row + 1], alone)


def ended(product: F32, ending: Ending, y: F32) -> F32:
    """What becomes of products, by definition."""
    if ending in GATED:
        return getattr(reference, ending)(*np.split(product, 2, axis=1))
    if ending == "gelu":
        return reference.gelu(product)
    return product + y if ending == "add" else product


def made(form: Affine, rows: int, columns: int) -> AffineRun:
    columns = -(-columns // form.columns) * form.columns
    return affine(np.random.default_rng(rows), rows, columns, form)


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("form", AFFINE + ODD, ids=str)
def test_every_layout_of_codes(gpu: Gpu, form: Affine, precision: Literal["f32", "int8"]) -> None:
    product = Product(made(form, 37, 288), precision)
    x, y = product.operands(2)
    assert_close(product.found(gpu, x, y), product.expected(x, y))


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_floats(gpu: Gpu, kind: str) -> None:
    for rows, columns in [(6, 96), (1, 1), (19, 257)]:
        Product(floats(np.random.default_rng(8), rows, columns, kind), norm=RMS if rows == 6 else None).check(
            gpu, counts=[2]
        )


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize(
    ("norm", "ending", "bias"),
    [
        (None, "store", False),
        (RMS, "store", True),
        (RMS, "swiglu", False),
        (None, "add", True),
        (Norm(EPS, centred=True, bias=True), "gelu", True),
        (Norm(EPS, centred=True), "geglu", True),
    ],
)
def test_before_and_after(
    gpu: Gpu, norm: Norm | None, ending: Ending, bias: bool, precision: Literal["f32", "int8"]
) -> None:
    """With subgroups and without."""
    product = Product(made(Q4, 70, 288), precision, norm, ending, bias)
    for subgroup in {gpu.subgroup, 0}:
        product.check(gpu, Limited(gpu, subgroup, gpu.limits.workgroup_memory), counts=[2])


@pytest.mark.parametrize("columns", [1, 257])
def test_rows_that_no_quad_divides_are_centred(gpu: Gpu, columns: int) -> None:
    run = floats(np.random.default_rng(8), 5, columns, "f16")
    product = Product(run, norm=Norm(0.1, centred=True, bias=True))
    x, y = product.operands(3)
    # A mean far from zero shows what is added of columns that are not there.
    assert_close(product.found(gpu, x + 5, y), product.expected(x + 5, y))


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_any_number_of_rows_gives_a_row_the_same_bits(gpu: Gpu, precision: Literal["f32", "int8"]) -> None:
    Product(made(Affine(4, 32, factor=np.uint8), 6, 512), precision, norm=RMS).check(gpu, counts=range(1, 10))


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("memory", [16 << 10, 64 << 10])
def test_rows_longer_than_workgroup_memory(gpu: Gpu, memory: int, precision: Literal["f32", "int8"]) -> None:
    """x comes in pieces."""
    product = Product(made(Q4, 9, 9 * 1024 + 32), precision, norm=RMS)
    on = Limited(gpu, gpu.subgroup, min(memory, gpu.limits.workgroup_memory))
    product.check(gpu, on, counts=[1, 5])


@pytest.mark.parametrize("memory", [16 << 10, 32 << 10, 48 << 10])
@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("subgroup", [0, 8, 32, 64])
def test_kernels_keep_to_the_workgroup_memory(gpu: Gpu, memory: int, precision: str, subgroup: int) -> None:
    sizes = {"f32": 4, "u32": 4, "i32": 4, "vec2<f32>": 8, "vec4<f32>": 16, "vec4<u32>": 16}
    on = Limited(gpu, subgroup, memory)
    for form, columns in [(Q4, 64), (Q4, 2048), (Affine(6, 16, factor=np.int8, centred=True), 5632)]:
        product = Product(made(form, 64, columns), precision, norm=RMS, ending="swiglu")  # type: ignore[arg-type]
        kernels = product.kernels(on)
        for kernel in (kernels.one, kernels.prepare, *kernels.several):
            arrays = re.findall(r"var<workgroup> \w+: array<(.+), (\d+)>;", kernel.source)
            assert sum(sizes[element] * int(count) for element, count in arrays) <= memory


def test_matrices_with_many_rows(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several results of an invocation, work one after another, and workgroups in two dimensions."""
    monkeypatch.setattr(linear_vec, "MANY_RESULTS", 1)
    monkeypatch.setattr(linear_vec, "BUSY_WORKGROUPS", 10)
    limited = Limited(gpu, gpu.subgroup, gpu.limits.workgroup_memory, workgroups=7)
    for precision in ("f32", "int8"):
        for ending in ("add", "swiglu"):
            Product(made(Q4, 2006, 64), precision, ending=ending).check(gpu, limited, counts=[2])


def test_activations_are_rounded_as_on_the_cpu(gpu: Gpu) -> None:
    """Each row of the weight is 1 in one column: the result is that column, rounded to 8 bits."""
    columns = 64
    codes = np.where(np.eye(columns, dtype=bool), np.uint8(9), np.uint8(8))
    ones = Scales(np.ones((columns, columns // 32), np.float16))
    product = Product(AffineRun(codes, 4, 32, ones, 8), "int8")
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8, columns)).astype(np.float32)
    x[1] = np.linspace(-127, 127, columns)  # many are halves
    x[2, ::2], x[2, 1::2] = 127, np.arange(-16, 16) + 0.5
    x[3], x[4] = 0, 1e-38
    x[5, :32] = 0
    np.testing.assert_array_equal(product.found(gpu, x, np.zeros_like(x)), as_quantised(x)[0])


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_damage_is_not_hidden(gpu: Gpu, precision: Literal["f32", "int8"]) -> None:
    product = Product(made(Q4, 16, 64), precision)
    x, y = product.operands(3)
    x[0, 5], x[1, 40] = np.nan, np.inf
    found = product.found(gpu, x, y)
    assert not np.isfinite(found[:2]).any()
    assert np.isfinite(found[2]).all()


def test_the_rows_whose_outputs_are_wanted(gpu: Gpu) -> None:
    """They are read where they are, and the results lie behind those of other phases."""
    product = Product(made(Q4, 37, 96), norm=RMS)
    x, _ = product.operands(7)
    outputs = [1, 4, 5]
    for some in (outputs, outputs[1:2]):
        size, step = step_of(len(x), some, first_output=2)
        y = np.zeros((6, 37), np.float32)
        found = product.compute(gpu, product.kernels(gpu, late=True), size, step, x, y)
        end = 2 + len(some)
        assert_close(found[2:end], product.expected(x[some], y=x))
        assert not found[:2].any()
        assert not found[end:].any()


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_prepared_rows_end_where_they_should(gpu: Gpu, precision: Literal["f32", "int8"]) -> None:
    product = Product(made(Q4, 6, 96), precision, norm=RMS)
    x, _ = product.operands(5)
    size, step = step_of(5)
    kernels = product.kernels(gpu)
    untouched = np.full(1024, 7, np.uint8)
    prepared = [buffer_of(gpu, np.full(5 * row + 1024, 7, np.uint8)) for row in kernels.row_bytes]
    run_kernel(gpu, kernels.prepare, size, [x, product.norm_weight, *prepared, step])
    for buffer in prepared:
        np.testing.assert_array_equal(gpu.read(buffer, np.uint8)[-1024:], untouched)


def test_who_computes_what(gpu: Gpu) -> None:
    """One dispatch for one row, two for several, none for none."""
    product = Product(made(Q4, 6, 96))
    kernels = product.kernels(gpu)
    for rows, busy in [(0, []), (1, ["one"]), (2, ["prepare", "several"]), (9, ["prepare", "several"])]:
        of = {"one": kernels.one, "prepare": kernels.prepare, "several": kernels.several[-1]}
        assert [name for name, kernel in of.items() if all(kernel.grid(Size(rows, 0, 1)))] == busy
    assert kernels.several[0].grid(Size(9, 0, 1))[1] == 3
