"""Tokens chosen by the GPU are those that the definition chooses, whatever the logits and parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from shimmy.engine.protocol import Sampling
from shimmy.engine.sampling import RowSampling, choose
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.sampling import GpuSampler, samples_ahead
from tests.backend.wgpu.kernels import COMPOSER

F32 = NDArray[np.float32]
GREEDY = RowSampling(Sampling(temperature=0.0), 0, {}, {})
ROWS = 8


class Tokens:
    """A sampler with buffers of its own."""

    def __init__(self, gpu: Gpu, vocabulary: int) -> None:
        self._gpu = gpu
        self._logits = gpu.buffer(4 * vocabulary * ROWS, "logits")
        self._chosen = gpu.buffer(4 * ROWS, "chosen")
        self.sampler = GpuSampler(gpu, COMPOSER, vocabulary, ROWS, self._logits.whole(), self._chosen.whole())

    def __call__(self, logits: F32, rows: Sequence[RowSampling]) -> list[int]:
        self._gpu.upload(self._logits, logits)
        self._gpu.run(self.sampler.calls(rows))
        return self._gpu.read(self._chosen, np.int32, len(rows)).tolist()


def made_up(rng: np.random.Generator, vocabulary: int) -> F32:
    """A row of logits: flat or peaked, with ties, with impossible tokens, all equal."""
    row = rng.normal(0, rng.choice([1e-6, 0.01, 1, 3, 30]), vocabulary).astype(np.float32)
    kind = rng.integers(5)
    if kind == 0:
        row = np.round(row * 2) / np.float32(2)  # zeros of both signs too
    elif kind == 1:
        row[rng.random(vocabulary) < 0.5] = -np.inf
        row[rng.integers(vocabulary)] = 1
    elif kind == 2:
        row[:] = row[0]
    elif kind == 3:
        row[rng.integers(vocabulary, size=9)] += 12
    return row


def made_up_sampling(rng: np.random.Generator, vocabulary: int) -> RowSampling:
    params = Sampling(
        temperature=float(rng.choice([0.0, 0.02, 0.7, 1.0, 2.0])),
        top_k=int(rng.choice([0, 0, 1, 2, 40, 1000, vocabulary - 1, vocabulary, 1 << 30])),
        top_p=float(rng.choice([1.0, 1.0, 0.0, 1e-9, 0.3, 0.95, 0.99999])),
        min_p=float(rng.choice([0.0, 0.0, 1e-7, 0.05, 1.0])),
        seed=int(rng.integers(1 << 62)),
    )
    return RowSampling(params, int(rng.integers(1 << 20)), {}, {})


@pytest.mark.parametrize(
    ("vocabulary", "count"),
    [(1, 64), (2, 200), (31, 600), (257, 1200), (2049, 400), (32000, 64), (49152, 48), (128256, 24)],
)
def test_every_token_is_that_of_the_definition(gpu: Gpu, vocabulary: int, count: int) -> None:
    rng = np.random.default_rng(vocabulary)
    tokens = Tokens(gpu, vocabulary)
    for start in range(0, count, ROWS):
        logits = np.stack([made_up(rng, vocabulary) for _ in range(ROWS)])
        rows = [made_up_sampling(rng, vocabulary) for _ in range(ROWS)]
        expected = [choose(row, how).token for row, how in zip(logits, rows, strict=True)]
        assert tokens(logits, rows) == expected, (start, [row.params for row in rows])


def test_greedy_rows_take_the_first_of_the_largest(gpu: Gpu) -> None:
    tokens = Tokens(gpu, 5000)
    logits = np.random.default_rng(1).normal(size=(ROWS, 5000)).astype(np.float32)
    logits[0, [4999, 4100, 2048]] = 9
    logits[1] = -0.0
    logits[1, 7:] = 0.0
    logits[2, 4999] = 100
    logits[3] = -5
    logits[4, 17] = 3e38
    for rows in (1, 3, ROWS):
        assert tokens(logits, [GREEDY] * rows) == logits.argmax(axis=1)[:rows].tolist()


@pytest.mark.parametrize("params", [GREEDY.params, Sampling(), Sampling(top_k=5, top_p=0.5)])
def test_what_is_no_number_is_no_token(gpu: Gpu, params: Sampling) -> None:
    tokens = Tokens(gpu, 3000)
    logits = np.zeros((ROWS, 3000), np.float32)
    logits[0, 2999] = math.nan
    logits[1, 5] = -math.nan
    logits[2] = math.nan
    logits[3, 2100] = math.inf
    logits[4] = -math.inf
    logits[5, [7, 9]] = math.inf, math.nan
    logits[6] = -math.inf
    logits[6, 2500] = -3e38
    found = tokens(logits, [RowSampling(params, 3, {}, {})] * ROWS)
    assert found[:7] == [-1] * 6 + [2500]
    assert found[7] == choose(logits[7], RowSampling(params, 3, {}, {})).token


def test_rows_do_not_depend_on_their_neighbours(gpu: Gpu) -> None:
    rng = np.random.default_rng(5)
    tokens = Tokens(gpu, 3000)
    logits = np.stack([made_up(rng, 3000) for _ in range(ROWS)])
    rows = [RowSampling(Sampling(top_p=0.9, seed=n), n, {}, {}) for n in range(ROWS - 1)]
    together = tokens(logits, [*rows, GREEDY])
    assert [tokens(logits[n:], [how])[0] for n, how in enumerate([*rows, GREEDY])] == together


def test_rows_that_need_the_host_do_not_disturb_others(gpu: Gpu) -> None:
    tokens = Tokens(gpu, 300)
    logits = np.random.default_rng(6).normal(size=(ROWS, 300)).astype(np.float32)
    how = RowSampling(Sampling(seed=4), 9, {}, {})
    waits = RowSampling(Sampling(repeat_penalty=1.2), 9, {1: 1}, {})
    assert tokens(logits, [waits, how])[1] == choose(logits[1], how).token
    assert tokens(logits, [waits, waits]) == logits[:2].argmax(axis=1).tolist()
    assert Tokens(gpu, 300).sampler.calls([]) == []


@pytest.mark.parametrize(
    "params",
    [
        Sampling(repeat_penalty=1.1),
        Sampling(presence_penalty=0.5),
        Sampling(frequency_penalty=0.5),
        Sampling(logit_bias={1: 2.0}),
        Sampling(logprobs=0),
    ],
)
def test_what_needs_the_host_does_not_run_ahead(params: Sampling) -> None:
    assert not samples_ahead(params)
    assert samples_ahead(Sampling(temperature=0.7, top_k=3, top_p=0.4, min_p=0.1))


@pytest.mark.parametrize("vocabulary", [255, 70_000])
def test_small_workgroups_draw_alike(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, vocabulary: int) -> None:
    """256 invocations, the fewest that a GPU has, look three times for a token of 70,000."""
    monkeypatch.setattr("shimmy_plugins.backends.wgpu.ops.sample._DRAW_THREADS", 256)
    rng = np.random.default_rng(7)
    tokens = Tokens(gpu, vocabulary)
    for _ in range(4):
        logits = np.stack([made_up(rng, vocabulary) for _ in range(ROWS)])
        rows = [made_up_sampling(rng, vocabulary) for _ in range(ROWS)]
        assert tokens(logits, rows) == [choose(a, how).token for a, how in zip(logits, rows, strict=True)]
