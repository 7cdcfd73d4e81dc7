"""The paged KV cache of the GPU: what it stores, how it grows, what does not fit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shimmy.errors import ConfigError, OutOfMemoryError
from shimmy.graph.kv import KV_TYPES
from shimmy_plugins.backends.wgpu.adapters import Adapter
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS, KVCache, head_bytes
from tests.backend.wgpu.attention import Case, Layer, Part
from tests.backend.wgpu.kernels import SHADERS, buffer_of

_HALVES = """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
# include "shimmy/common/half.wgsl"
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = half_bits(x[id.x]); }
"""


def test_half_floats_are_the_nearest(gpu: Gpu, tmp_path: Path) -> None:
    """Ties, subnormal numbers, the border to infinity, and random bits, as NumPy rounds them."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[1:] + halves[:-1]) / 2
    near = [np.nextafter(middles, np.float32(towards)) for towards in (0, np.inf)]
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 32, 10_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    border = np.array([65504, 65519.996, 65520, 65536, 1e30, np.inf, 1e-30, 0], np.float32)
    x = np.concatenate([halves, middles, *near, bits[~np.isnan(bits)], border])
    x = np.concatenate([x, -x])
    x = np.resize(x, -(-len(x) // 64) * 64)
    (tmp_path / "halves.wgsl").write_text(_HALVES)
    pipeline = gpu.pipeline(
        Composer({"shimmy": SHADERS, "test": tmp_path}).compose("test/halves.wgsl"), "halves"
    )
    source, target = buffer_of(gpu, x), gpu.buffer(x.nbytes, "y")
    gpu.run([gpu.call(pipeline, gpu.bind(pipeline, [source.whole(), target.whole()]), len(x) // 64)])
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(gpu.read(target, np.uint32), expected)


def test_head_sizes_are_whole_chunks() -> None:
    assert [head_bytes(kv_type, 64) for kv_type in ("f32", "f16", "q8_0")] == [256, 128, 72]
    assert [head_bytes(kv_type, 33) for kv_type in ("f32", "f16", "q8_0")] == [144, 72, 44]


def test_another_type_is_an_error_that_names_the_types(gpu: Gpu) -> None:
    with pytest.raises(ConfigError, match="'q4_0'") as raised:
        KVCache(gpu, "q4_0")
    assert raised.value.hint is not None
    assert "q8_0" in raised.value.hint


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_growing_and_shrinking_keep_what_is_stored(gpu: Gpu, kv_type: str) -> None:
    layer = Layer(gpu, Case(4, 2, 16, 16, kv_type=kv_type, max_ctx=128))
    layer.tables = np.arange(layer.tables.size, dtype=np.int32).reshape(layer.tables.shape)
    first, then = [Part(0, 0, 60)], [Part(0, 60, 20)]
    layer.prompts(first)
    layer.expected(first)
    expected = layer.expected(then)
    for blocks in (300, 4, 70):
        version = layer.kv.version
        layer.kv.reserve(blocks)
        assert layer.kv.version != version
        assert np.linalg.norm(layer.prompts(then) - expected) <= 1e-5 * np.linalg.norm(expected)


def cache_of(gpu: Gpu) -> KVCache:
    """Two layers: 2 x (keys of 2 x 16, values of 2 x 8 numbers) of 4 bytes a position."""
    cache = KVCache(gpu, "f32")
    for layer in range(2):
        for _ in range(2):  # as the programs for both phases do
            cache.add_layer(layer, 2, 16, 8)
    return cache


def test_memory_is_doubled_and_given_back_but_for_a_few_blocks(adapter: Adapter) -> None:
    gpu = Gpu(adapter)
    cache = cache_of(gpu)
    assert cache.block_bytes == BLOCK_TOKENS * 2 * 2 * (16 + 8) * 4
    before = gpu.used

    def blocks() -> float:
        return (gpu.used - before) / cache.block_bytes

    sizes, versions = [], []
    for asked in (10, 64, 65, 129, 64, 63, 0):
        cache.reserve(asked)
        sizes.append(blocks())
        versions.append(cache.version)
    assert sizes == [64, 64, 128, 256, 256, 64, 64]
    assert [later > earlier for earlier, later in pairwise(versions)] == [
        False, True, True, False, True, False,
    ]  # fmt: skip
    cache.reserve(1)
    cache.close()
    assert blocks() == 0
    gpu.close()


def test_growing_takes_what_there_is(adapter: Adapter) -> None:
    """Twice as much is only taken where it fits; what does not fit is an error with the arithmetic."""
    gpu = Gpu(adapter)
    cache = cache_of(gpu)
    # Copies need both: 9 blocks of each buffer would fit in the end, but not beside the old keys of layer 1.
    gpu.memory = gpu.used + 41 * cache.block_bytes // 4
    for asked in (6, 8):
        cache.reserve(asked)
        keys, values = cache.slices(1)
        # A fifth of it stays for others.
        assert keys.size == 8 * BLOCK_TOKENS * 2 * 16 * 4
    with pytest.raises(OutOfMemoryError, match="100 blocks x 12288 bytes = 1 MiB") as raised:
        cache.reserve(100)
    assert "3200 positions" in raised.value.message
    assert cache.slices(1) == (keys, values)
    gpu.close()


@pytest.mark.parametrize("told", [True, False], ids=["budget", "driver"])
def test_all_layers_grow_alike(adapter: Adapter, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """What the first layers take in advance is not missing to the last, be it the driver that has no more."""
    gpu = Gpu(adapter)
    cache = cache_of(gpu)
    gpu.memory = gpu.used + 100 * cache.block_bytes
    if not told:
        monkeypatch.setattr(Gpu, "free", None)
    sizes = []
    for asked in (2, 40, 70):
        cache.reserve(asked)
        sizes.append(cache.blocks)
    assert sizes == ([64, 64, 78] if told else [64, 64, 70])
    gpu.close()


def test_what_cannot_be_given_back_stays(adapter: Adapter) -> None:
    gpu = Gpu(adapter)
    cache = cache_of(gpu)
    cache.reserve(300)
    gpu.memory = gpu.used
    cache.reserve(0)
    assert cache.blocks == 300
    gpu.memory = None
    cache.reserve(0)
    assert cache.blocks == 64
    gpu.close()


def test_buffers_have_a_limit(gpu: Gpu) -> None:
    cache = KVCache(gpu, "f32")
    cache.add_layer(0, 64, 1024, 1024)
    most = min(gpu.limits.storage_binding, gpu.limits.buffer) // (cache.block_bytes // 2)
    with pytest.raises(OutOfMemoryError, match=f"can have {most} blocks of the keys of layer 0"):
        cache.reserve(most + 1)
