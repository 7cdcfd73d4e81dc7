"""Products of tiles on the GPU against NumPy: all layouts, odd shapes, all endings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy.graph import reference
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.layouts import GpuLayout, layout_of
from shimmy_plugins.backends.wgpu.ops.ending import Ending, width_of
from shimmy_plugins.backends.wgpu.ops.linear_tile import Tile, linear_tile
from shimmy_plugins.backends.wgpu.ops.quantize import code_bytes, quantize, scale_bytes
from shimmy_plugins.backends.wgpu.packing import pack
from tests.backend.harness import AFFINE, Affine, MadeUpWeights, affine, assert_close, floats
from tests.backend.wgpu.kernels import COMPOSER, run_kernel, step_of

F32 = NDArray[np.float32]
#: Much faster to compile on a CPU than those that GPUs like.
SMALL = Tile(8, 16, 2, 4, chunk=16)


class Product:
    """A made-up matrix, and what the GPU makes of rows multiplied with it."""

    def __init__(self, gpu: Gpu, run: AffineRun | FloatRun, precision: str) -> None:
        self.gpu, self.precision = gpu, precision
        self.weight = MadeUpWeights(w=run).dequantize("w.weight")
        self.layout: GpuLayout = layout_of(run)
        self.parts = pack(self.layout, run)
        self.int8 = precision == "int8" and isinstance(run, AffineRun)

    def __call__(
        self,
        x: F32,
        *,
        outputs: Sequence[int] | None = None,
        first_output: int = 0,
        y: F32 | None = None,
        bias: F32 | None = None,
        ending: Ending | None = None,
        picked: bool = True,
        tile: Tile | None = None,
    ) -> F32:
        """The whole of y, which has a row that is nobody's at its end."""
        gpu, (rows, columns) = self.gpu, self.weight.shape
        size, step = step_of(len(x), outputs or [], first_output)
        ending = ending or ("store" if y is None else "add")
        kernel = linear_tile(
            COMPOSER,
            gpu,
            self.layout,
            rows,
            columns,
            precision=self.precision,
            ending=ending,
            bias=bias is not None,
            late=outputs is not None,
            picked=picked,
            tile=tile,
        )
        rows = width_of(rows, ending)
        count = first_output + size.outputs if outputs is not None else len(x)
        before = np.full((count + 1, rows), 7, np.float32)
        if y is not None:
            before[first_output:count] = y
        target = gpu.buffer(before.nbytes, "y")
        gpu.upload(target, before)
        operands = self.quantised(x) if self.int8 else [x]
        extra = [] if bias is None else [bias]
        run_kernel(gpu, kernel, size, [*self.parts, *extra, *operands, target, step])
        found = gpu.read(target, np.float32).reshape(before.shape)
        np.testing.assert_array_equal(found[count], 7)
        np.testing.assert_array_equal(found[:first_output], 7)
        return found[first_output:count]

    def quantised(self, x: F32):
        columns = x.shape[1]
        xq = self.gpu.buffer(len(x) * code_bytes(columns), "xq")
        xd = self.gpu.buffer(len(x) * scale_bytes(columns), "xd")
        size, step = step_of(len(x))
        run_kernel(self.gpu, quantize(COMPOSER, self.gpu, columns), size, [x, xq, xd, step])
        return [xq, xd]

    def seen(self, x: F32) -> F32:
        """What is left of x: in int8 the codes that the GPU made."""
        if not self.int8:
            return x
        xq, xd = self.quantised(x)
        codes = self.gpu.read(xq, np.int8).reshape(len(x), -1, 32).astype(np.float32)
        scales = self.gpu.read(xd, np.float32).reshape(len(x), -1, 2)[..., :1]
        return (codes * scales).reshape(len(x), -1)[:, : x.shape[1]]

    def expected(self, x: F32) -> F32:
        product = self.seen(x).astype(np.float64) @ self.weight.T.astype(np.float64)
        return product.astype(np.float32)


def normal(*shape: int) -> F32:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("form", AFFINE, ids=str)
def test_quantised_matrices(gpu: Gpu, form: Affine, precision: str) -> None:
    rng = np.random.default_rng(1)
    shapes = [(33, 256 if form.factor else 96)] + [(16, 48)] * (form.columns == 16)
    for rows, columns in shapes:
        product = Product(gpu, affine(rng, rows, columns, form), precision)
        for count in (1, 21):
            x = normal(count, columns)
            assert_close(product(x, tile=SMALL), product.expected(x))


@pytest.mark.parametrize(("kind", "precision"), [("f32", "f32"), ("f16", "f32"), ("bf16", "int8")])
def test_matrices_of_floats_compute_in_f32(gpu: Gpu, kind: str, precision: str) -> None:
    rng = np.random.default_rng(2)
    for rows, columns in [(40, 1), (33, 31), (17, 104), (3, 576)]:
        product = Product(gpu, floats(rng, rows, columns, kind), precision)
        x = normal(19, columns)
        assert_close(product(x, tile=SMALL), product.expected(x))


#: One layout for each way in which the int8 kernel treats offsets and groups, and one of floats.
FORMS = [
    (Affine(4, 32, centred=True), "int8"),
    (Affine(8, 32, centred=True), "int8"),
    (Affine(4, 32, factor=np.uint8), "int8"),
    (Affine(6, 16, factor=np.int8, centred=True), "int8"),
    (Affine(2, 16, factor=np.uint8), "int8"),
    (None, "f32"),
]


def product_of(gpu: Gpu, form: Affine | None, precision: str, rows: int, columns: int) -> Product:
    rng = np.random.default_rng(3)
    run = affine(rng, rows, columns, form) if form else floats(rng, rows, columns, "f16")
    return Product(gpu, run, precision)


@pytest.mark.parametrize(("form", "precision"), FORMS, ids=str)
def test_what_becomes_of_the_sums(gpu: Gpu, form: Affine | None, precision: str) -> None:
    product, x = product_of(gpu, form, precision, 38, 256), normal(21, 256) * np.float32(0.02)
    plain, y, bias = product.expected(x), normal(21, 38), normal(38)
    assert_close(product(x, tile=SMALL, bias=bias), plain + bias)
    assert_close(product(x, tile=SMALL, y=y), y + plain)
    assert_close(product(x, tile=SMALL, y=y, bias=bias), y + plain + bias)
    assert_close(product(x, tile=SMALL, ending="gelu", bias=bias), reference.gelu(plain + bias))
    assert_close(product(x, tile=SMALL, ending="swiglu"), reference.swiglu(plain[:, :19], plain[:, 19:]))
    gate, up = np.split(plain + bias, 2, axis=1)
    assert_close(product(x, tile=SMALL, ending="geglu", bias=bias), reference.geglu(gate, up))
    wanted = [0, 3, 20]
    late = product(x, tile=SMALL, outputs=wanted, first_output=2)
    np.testing.assert_array_equal(late, product(x, tile=SMALL)[wanted])


@pytest.mark.parametrize(("form", "precision"), FORMS, ids=str)
def test_the_tiles_that_are_chosen(gpu: Gpu, form: Affine | None, precision: str) -> None:
    """Give the same bits as others, to a row the same alone as among others, at any place."""
    for rows in (150, 4100):
        product, x = product_of(gpu, form, precision, rows, 256), normal(70, 256)
        found = product(x)
        assert_close(found, product.expected(x))
        np.testing.assert_array_equal(found, product(x, tile=SMALL))
        np.testing.assert_array_equal(product(x, outputs=[0, 3, 69]), found[[0, 3, 69]])
        for row in (0, 37, 69):
            np.testing.assert_array_equal(product(x[row : row + 1])[0], found[row])


@pytest.mark.parametrize("chunk", [16, 32])
@pytest.mark.parametrize("buffers", [1, 2])
def test_ways_through_memory_in_f32(gpu: Gpu, chunk: int, buffers: int) -> None:
    product, x = product_of(gpu, Affine(4, 32), "f32", 40, 96), normal(20, 96)
    found = product(x, tile=Tile(16, 32, 4, 8, chunk=chunk, buffers=buffers))
    np.testing.assert_array_equal(found, product(x, tile=SMALL))
    assert_close(found, product.expected(x))


def test_damage_stays_in_its_row(gpu: Gpu) -> None:
    """A NaN behind the last column of one row is the first of the next."""
    product, x = product_of(gpu, None, "f32", 20, 46), normal(3, 46)
    x[1, 0] = np.nan
    found = product(x, tile=SMALL)
    assert np.isnan(found[1]).all()
    assert_close(found[[0, 2]], product.expected(x)[[0, 2]])


SIZES = {"vec4<u32>": 16, "vec4<f32>": 16, "vec2<f32>": 8, "f32": 4, "i32": 4}


@pytest.mark.parametrize(("rows", "late"), [(64, False), (8192, False), (8192, True)])
@pytest.mark.parametrize(("form", "precision"), FORMS, ids=str)
def test_tiles_fit_the_memory_of_workgroups(
    gpu: Gpu, form: Affine | None, precision: str, rows: int, late: bool
) -> None:
    layout, memory = product_of(gpu, form, precision, 3, 256).layout, 16 << 10
    small = SimpleNamespace(limits=replace(gpu.limits, workgroup_memory=memory), subgroup=gpu.subgroup)
    source = linear_tile(COMPOSER, small, layout, rows, 256, precision=precision, late=late).source
    arrays = re.findall(r"var<workgroup> \w+: array<array<(.+), (\d+)>, (\d+)>;", source)
    assert len(arrays) == source.count("var<workgroup>") >= 2
    assert sum(SIZES[element] * int(n) * int(m) for element, n, m in arrays) <= memory
