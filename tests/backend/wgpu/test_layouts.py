"""GPU layouts: what kernels read of them are the weights that NumPy sees, compact, whatever the type."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from shimmy.gguf.quant import AffineRun, Scales
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.layouts import AffineLayout, GpuLayout, layout_of, padded
from shimmy_plugins.backends.wgpu.packing import pack
from shimmy_plugins.backends.wgpu.weights import GpuMatrix, GpuWeights
from tests.backend.harness import (
    AFFINE,
    F32,
    LARGER,
    LARGER_OTHERS,
    PLUGINS,
    Affine,
    MadeUpWeights,
    affine,
    floats,
)

SPECS = {spec.name: spec for spec in PLUGINS.quant_types}
#: What no file format has, beside those of the harness: a plane of each width, and offsets of bytes.
ODD = [
    Affine(1, 32),
    Affine(3, 32, centred=True),
    Affine(5, 16, np.float32, np.int8),
    Affine(6, 32, np.float16, np.uint8, centred=True),
    Affine(7, 32, np.float32, np.uint8),
    Affine(8, 32, factor=np.int8),
    Affine(8, 16, centred=True),
]
#: What a workgroup of one invocation finds in a block.
READ = {
    "values": """
    let values = w_values(block.y, block.x);
    for (var i = 0u; i < 8u; i++) { found[at + i] = values[i]; }
""",
    "codes": """
    let words = w_words(block.y, block.x);
    for (var i = 0u; i < 8u; i++) {
        let scale = w_scale(block.y, (block.x * 8u + i) * 4u / ${layout.group}u);
        found[at + i] = vec4<f32>(unpack4xI8(words[i])) * scale.x + scale.y;
    }
""",
}
PROBE = """# import layout.shader as weights
${weights.bindings(layout, "w", 0)}
@group(0) @binding(${layout.parts | length}) var<storage, read_write> found: array<vec4<f32>>;
${weights.functions(layout, "w", columns)}
@compute @workgroup_size(1) fn main(@builtin(workgroup_id) block: vec3<u32>) {
    let at = (block.y * ${(columns + 31) // 32}u + block.x) * 8u;
"""


def read(gpu: Gpu, folder: Path, matrix: GpuMatrix, how: str) -> F32:
    """All columns of the matrix as kernels see it, those past the end of rows too."""
    (folder / "probe.wgsl").write_text(PROBE + READ[how] + "}\n")
    composer = Composer({"shimmy": files("shimmy_shaders"), "test": folder})
    source = composer.compose("test/probe.wgsl", layout=matrix.layout, columns=matrix.columns)
    pipeline = gpu.pipeline(source, "probe")
    columns = padded(matrix.columns)
    found = gpu.buffer(matrix.rows * columns * 4, "found")
    group = gpu.bind(pipeline, [*matrix.slices, found.whole()])
    gpu.run([gpu.call(pipeline, group, columns // 32, matrix.rows)])
    return gpu.read(found, np.float32).reshape(matrix.rows, columns)


def assert_reads(found: F32, expected: F32) -> None:
    """Equal to the last bit, and zero past the end."""
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert not found[:, expected.shape[1] :].any()


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_kernels_read_the_numbers_of_a_file(gpu: Gpu, tmp_path: Path, spec) -> None:
    """Any blocks at all, denormal scales among them."""
    rng = np.random.default_rng(spec.ggml_id)
    rows, columns = 6, 512
    blocks = rng.integers(0, 256, (rows * columns // spec.block_elements, spec.block_bytes), np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = spec.load().dequantize_blocks(blocks).reshape(rows, -1)
    run = spec.load().to_run(blocks, rows)
    found = read(gpu, tmp_path, GpuWeights(gpu, MadeUpWeights(w=run)).matrix(["w.weight"]), "values")
    finite = np.isfinite(expected)
    assert finite.mean() > 0.8
    np.testing.assert_array_equal(found[finite], expected[finite])


@pytest.mark.parametrize("form", AFFINE + ODD, ids=str)
@pytest.mark.parametrize("how", list(READ))
def test_kernels_read_any_run_layout(gpu: Gpu, tmp_path: Path, form: Affine, how: str) -> None:
    for rows, columns in [(1, 16), (6, 48), (5, 96), (3, 256)]:
        columns = -(-columns // form.columns) * form.columns
        weights = MadeUpWeights(w=affine(np.random.default_rng(7), rows, columns, form))
        found = read(gpu, tmp_path, GpuWeights(gpu, weights).matrix(["w.weight"]), how)
        expected = weights.dequantize("w.weight")
        if how == "values":
            assert_reads(found, expected)
        else:  # the offset was rounded once more
            np.testing.assert_allclose(
                found[:, :columns], expected, rtol=0, atol=3e-7 * np.abs(expected).max()
            )


def test_scales_and_offsets_stored_differently(gpu: Gpu, tmp_path: Path) -> None:
    """Units of 32 bits and 64 columns for scales, of 16 bits for every group of offsets."""
    rng = np.random.default_rng(9)
    scales = Scales(
        rng.normal(size=(5, 3)).astype(np.float16).astype(np.float32),
        rng.integers(-9, 9, (5, 12), np.int8),
    )
    offsets = Scales(rng.normal(size=(5, 12)).astype(np.float16))
    run = AffineRun(rng.integers(0, 16, (5, 192), np.uint8), 4, 16, scales, offsets)
    weights = MadeUpWeights(w=run)
    matrix = GpuWeights(gpu, weights).matrix(["w.weight"])
    assert matrix.layout.name == "affine4_16_f4i1x4_f2"
    assert [part.name for part in matrix.layout.parts] == [
        "plane4",
        "scale_units",
        "scale_factors",
        "offset_units",
    ]
    assert_reads(read(gpu, tmp_path, matrix, "values"), weights.dequantize("w.weight"))


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_floats_of_any_width(gpu: Gpu, tmp_path: Path, kind: str) -> None:
    for rows, columns in [(1, 1), (6, 257), (3, 64), (2, 33)]:
        weights = MadeUpWeights(w=floats(np.random.default_rng(8), rows, columns, kind))
        found = read(gpu, tmp_path, GpuWeights(gpu, weights).matrix(["w.weight"]), "values")
        assert_reads(found, weights.dequantize("w.weight"))


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_weights_are_hardly_larger_than_the_file(spec) -> None:
    rows, columns = 64, 2048
    blocks = np.zeros((rows * columns // spec.block_elements, spec.block_bytes), np.uint8)
    layout = layout_of(spec.load().to_run(blocks, rows))
    assert layout.bytes(rows, columns) <= LARGER.get(spec.name, LARGER_OTHERS) * blocks.nbytes


def test_parts_have_the_sizes_they_say() -> None:
    for form in AFFINE + ODD:
        for columns in (form.columns, 3 * form.columns):
            run = affine(np.random.default_rng(1), 4, columns, form)
            layout: GpuLayout = layout_of(run)
            found = pack(layout, run)
            assert [words.shape[1] for words in found] == [p.row_words(columns) for p in layout.parts]
            assert sum(words.nbytes for words in found) == layout.bytes(4, columns)


def test_names_tell_layouts_apart() -> None:
    forms = AFFINE + ODD
    layouts = [layout_of(affine(np.random.default_rng(1), 2, 256, form)) for form in forms]
    assert len({layout.name for layout in layouts}) == len(set(layouts)) == len(set(forms))


def test_a_plane_is_of_words_of_four_columns() -> None:
    """The layout by hand: column j of the 16 bytes is the low nibble of byte j, or the high one of j - 16."""
    codes = np.arange(32, dtype=np.uint8)[None] % 16
    run = AffineRun(codes, 4, 32, Scales(np.ones((1, 1), np.float16)), 8)
    layout = layout_of(run)
    assert isinstance(layout, AffineLayout)
    plane, scales = pack(layout, run)
    assert plane.tobytes() == bytes(j | j << 4 for j in range(16))
    assert scales.tolist() == [[0x3C00]]
