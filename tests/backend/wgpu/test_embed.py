"""embed: rows of any layout, exactly; also of tokens chosen by the step before."""

from __future__ import annotations

import numpy as np
import pytest

from shimmy.gguf.quant import AffineRun, FloatRun
from shimmy.graph.batch import Batch
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Size
from shimmy_plugins.backends.wgpu.ops.embed import embed
from shimmy_plugins.backends.wgpu.step import phase_words
from shimmy_plugins.backends.wgpu.weights import GpuWeights
from tests.backend.harness import Affine, MadeUpWeights, affine, floats
from tests.backend.wgpu.kernels import COMPOSER, run_kernel

VOCABULARY = 19
RNG = np.random.default_rng(6)
RUNS = {
    "q4_0": affine(RNG, VOCABULARY, 96, Affine(4, 32, centred=True)),
    "q6_k": affine(RNG, VOCABULARY, 2304, Affine(6, 16, factor=np.int8, centred=True)),
    "half a block": affine(RNG, VOCABULARY, 48, Affine(5, 16)),
    "f32": floats(RNG, VOCABULARY, 257),
    "bf16": floats(RNG, VOCABULARY, 1, "bf16"),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=list(RUNS))
def test_rows_of_the_matrix(gpu: Gpu, run: AffineRun | FloatRun) -> None:
    weights = MadeUpWeights(w=run)
    matrix = GpuWeights(gpu, weights).matrix(["w.weight"])
    tokens = np.array([3, -2, 0, VOCABULARY - 1, -1, 3], np.int32)
    chosen = np.array([11, 7], np.int32)
    batch = Batch(
        tokens,
        np.arange(6, dtype=np.int32),
        np.zeros(6, np.int32),
        np.zeros((1, 1), np.int32),
        np.zeros(0, np.int32),
    )
    found = gpu.buffer(6 * matrix.columns * 4, "y")
    kernel = embed(COMPOSER, gpu, matrix.layout, matrix.columns)
    step = phase_words(batch, slice(0, 6), 0)
    run_kernel(gpu, kernel, Size(6, 0, 6), [*matrix.slices, chosen, found, step])
    expected = weights.dequantize("w.weight")[[3, 7, 0, VOCABULARY - 1, 11, 3]]
    np.testing.assert_array_equal(gpu.read(found, np.float32).reshape(6, -1), expected)
