"""Attention on the GPU: near its definition, and the same bits whatever else is in a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from shimmy.errors import GraphError
from shimmy.graph.kv import KV_TYPES
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Size
from shimmy_plugins.backends.wgpu.ops import attention_tile as tile
from shimmy_plugins.backends.wgpu.ops import attention_vec as vec
from shimmy_plugins.backends.wgpu.ops.attention_tile import attention_tile
from shimmy_plugins.backends.wgpu.ops.attention_vec import attention_vec, pieces
from shimmy_plugins.backends.wgpu.ops.rope import Rotation
from tests.backend.wgpu.attention import Case, Layer, Part, error
from tests.backend.wgpu.kernels import COMPOSER

HALF = Rotation(64, "half")
CASES = [
    *[Case(heads, kv_heads) for heads, kv_heads in [(4, 4), (9, 3), (5, 1), (26, 2)]],
    *[Case(6, 2, dim, dim) for dim in (8, 80, 96, 128)],
    *[Case(8, 1, 8, 264), Case(2, 1, 10, 140), Case(3, 3, 7, 33)],
    *[Case(6, 2, 20, 20, window=window) for window in (1, 64, 65, 100)],
    *[Case(6, 2, 20, 20, softcap=2.0), Case(6, 2, 20, 20, rope=Rotation(6, "half"))],
    *[Case(rope=Rotation(32, "interleaved")), Case(rope=HALF, merged=False)],
    *[Case(6, 2, 20, 36, window=90, rope=Rotation(20, "half"), kv_type=kv_type) for kv_type in KV_TYPES],
]
#: Relative to a row's norm.
TOLERANCE = 1e-5


def prompt_steps() -> Iterator[Sequence[Part]]:
    """Sequences side by side in tiles, positions continuing, borders of blocks and tiles crossed."""
    yield [Part(0, 0, 40)]
    yield [Part(1, 0, 3), Part(0, 40, 25), Part(2, 0, 33)]
    yield [Part(2, 33, 1), Part(0, 65, 62), Part(1, 3, 1)]


def generated_steps() -> Iterator[Sequence[Part]]:
    """After the prompts: pieces begin and end, one sequence begins with a generated token."""
    yield [Part(0, 127)]
    yield [Part(0, 128), Part(1, 4), Part(3, 0)]
    yield [Part(3, 1), Part(2, 34), Part(0, 129), Part(1, 5)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_near_the_definition(gpu: Gpu, case: Case) -> None:
    layer = Layer(gpu, case)
    for step in prompt_steps():
        assert error(layer.prompts(step), layer.expected(step)) <= TOLERANCE
    for step in generated_steps():
        assert error(layer.generated(step), layer.expected(step)) <= TOLERANCE
    step = [Part(1, 6, 30), Part(0, 130, 30)]
    assert error(layer.prompts(step), layer.expected(step)) <= TOLERANCE


NORMED = [
    Case(6, 2, 80, 80, rope=Rotation(32, "half"), norms=(1e-6, 0.1)),
    Case(8, 1, 64, 64, rope=Rotation(64, "interleaved"), kv_type="q8_0", norms=(1e-6, 1e-6)),
    Case(20, 2, 7, 7, norms=(0.1, None), merged=False),
    Case(26, 2, 20, 36, rope=Rotation(20, "half"), norms=(None, 0.1)),
]


@pytest.mark.parametrize("case", NORMED, ids=str)
def test_heads_normed_before(gpu: Gpu, case: Case) -> None:
    layer = Layer(gpu, case)
    for start in range(3):
        step = [Part(0, start), Part(1, start)]
        assert error(layer.generated(step), layer.expected(step)) <= TOLERANCE


@dataclass(frozen=True)
class SmallGpu:
    """What kernels are made for: another GPU than the one that runs them."""

    gpu: Gpu
    workgroup_memory: int
    subgroup: int = 0

    @property
    def limits(self):
        return replace(self.gpu.limits, workgroup_memory=self.workgroup_memory)


@pytest.mark.parametrize("case", [Case(), Case(16, 2, 128, 128), Case(4, 4, 256, 256)], ids=str)
def test_the_least_a_gpu_has(gpu: Gpu, case: Case) -> None:
    """16 KiB of workgroup memory, no subgroups."""
    layer = Layer(gpu, case)
    small = SmallGpu(gpu, 16384)
    layer.vec = attention_vec(COMPOSER, small, case.shape(), case.kv_type)
    layer.tile = (layer.tile[0], attention_tile(COMPOSER, small, case.shape(), case.kv_type))
    for step in prompt_steps():
        assert error(layer.prompts(step), layer.expected(step)) <= TOLERANCE
    for step in generated_steps():
        assert error(layer.generated(step), layer.expected(step)) <= TOLERANCE


@pytest.mark.parametrize("case", [Case(), Case(26, 2, 20, 36, window=50)], ids=str)
def test_eight_queries_of_an_invocation(gpu: Gpu, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile, "_TILES", (tile._Tile(4, 8, 16, 2),))
    layer = Layer(gpu, case)
    for step in prompt_steps():
        assert error(layer.prompts(step), layer.expected(step)) <= TOLERANCE


def test_heads_beyond_the_memory_of_workgroups(gpu: Gpu) -> None:
    small, case = SmallGpu(gpu, 16384), Case(1, 1, 4096, 4096)
    with pytest.raises(GraphError, match="workgroup memory"):
        attention_vec(COMPOSER, small, case.shape(), "f32")
    with pytest.raises(GraphError, match="workgroup memory"):
        attention_tile(COMPOSER, small, case.shape(), "f32")


@pytest.mark.parametrize(("window", "kv_type"), [(None, "f32"), (50, "f16"), (None, "q8_0")])
def test_chunks_of_a_prompt_do_not_matter(gpu: Gpu, window: int | None, kv_type: str) -> None:
    """Any chunking, and any neighbours in a tile, give a row the same bits."""
    case = Case(6, 2, 20, 20, window=window, rope=Rotation(20, "half"), kv_type=kv_type)
    rows = {}
    for chunks in ([60, 60], [1, 2, 3, 4, 5, 45, 60], [33, 1, 31, 55]):
        layer, start, got = Layer(gpu, case), 0, []
        for count in chunks:
            got.append(layer.prompts([Part(0, start, count)]))
            start += count
        rows[len(chunks)] = np.concatenate(got)
    layer = Layer(gpu, case)
    first = layer.prompts([Part(1, 0, 7), Part(0, 0, 50), Part(2, 0, 7)])[7:57]
    beside = [layer.prompts([Part(1, 7 + i, 3), Part(0, 50 + 5 * i, 5)])[3:] for i in range(14)]
    rows[0] = np.concatenate([first, *beside])
    for other in rows.values():
        np.testing.assert_array_equal(other, rows[2])


def test_generated_rows_beside_others_have_the_same_bits(gpu: Gpu) -> None:
    case = Case(window=100, rope=HALF)
    alone, together = Layer(gpu, case, 9), Layer(gpu, case, 9)
    lengths = [0, 1, 31, 63, 64, 100, 127, 128, 140]
    for layer in (alone, together):
        for sequence, length in enumerate(lengths):
            for start in range(0, length, 60):
                layer.prompts([Part(sequence, start, min(60, length - start))])
    expected = [alone.generated([Part(i, length)]) for i, length in enumerate(lengths)]
    for count in range(1, 10):
        order = np.random.default_rng(count).permutation(9)[:count]
        got = together.generated([Part(int(i), lengths[i]) for i in order])
        np.testing.assert_array_equal(got, np.concatenate([expected[i] for i in order]))


@pytest.mark.parametrize("window", [None, 170])
def test_more_pieces_than_workgroups(gpu: Gpu, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each workgroup goes through several pieces; how many depends on the row alone."""
    monkeypatch.setattr(vec, "SPLITS", 2)
    layer, lengths = Layer(gpu, Case(6, 2, 20, 20, window=window, rope=Rotation(20, "half"))), (319, 320, 10)
    for sequence, length in enumerate(lengths):
        for start in range(0, length, 64):
            step = [Part(sequence, start, min(64, length - start))]
            layer.prompts(step)
            layer.expected(step)
    step = [Part(i, length) for i, length in enumerate(lengths)]
    got = layer.generated(step)
    assert error(got, layer.expected(step)) <= TOLERANCE
    for row, part in zip(got, step, strict=True):
        np.testing.assert_array_equal(layer.generated([part])[0], row)


def test_a_row_that_one_workgroup_has_to_itself_needs_no_merge(gpu: Gpu) -> None:
    shape = Case().shape()
    _piece, merge = attention_vec(COMPOSER, gpu, shape, "f32")
    needed = [all(merge.grid(Size(3, 0, context))) for context in (64, 128, 192, 512)]
    assert needed == [False, False, True, True]


def test_one_overwhelming_position(gpu: Gpu) -> None:
    """Scores far apart: the softmax is 1 at one position and 0 elsewhere, never NaN."""
    layer = Layer(gpu, Case(2, 2, 8, 8))
    q, k, _v = np.split(layer.data[0], [16, 32], axis=1)
    q[:], k[:], k[2] = 1.0, 0.0, 1e4
    step = [Part(0, 0, 40)]
    assert error(layer.prompts(step), layer.expected(step)) <= TOLERANCE
    step = [Part(0, 40)]
    assert error(layer.generated(step), layer.expected(step)) <= TOLERANCE


def test_pieces_cover_every_window() -> None:
    for window in (1, 2, 63, 64, 65, 66, 128, 129, 200):
        shape = replace(Case(), window=window).shape()
        needed = max(last // 64 - max(last + 1 - window, 0) // 64 + 1 for last in range(400))
        assert pieces(shape, 400) == needed
