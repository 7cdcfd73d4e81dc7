"""Attention on each engine against the NumPy definition, and on the CPU against itself, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shimmy.engine.plan import Limits, Plan
from shimmy.gguf.quant import FloatRun
from shimmy.graph.builder import Graph, Value
from shimmy.graph.kv import KV_TYPES, stored
from shimmy.testing.sequences import Attention, continued_steps, tokens
from shimmy_plugins.backends.cpu.backend import CpuBackend
from shimmy_plugins.backends.cpu.jit import Target
from shimmy_plugins.backends.cpu.object_cache import ObjectCache
from tests.backend.harness import (
    F32,
    JUDGED,
    LIMITS,
    MadeUpWeights,
    Part,
    assert_agree,
    assert_close,
    batch_of,
    compile_graph,
    graph_of,
    no_progress,
    rows_of,
)

SHAPES = [
    *[Attention(heads, kv_heads, 64, 64) for heads, kv_heads in [(4, 4), (6, 2), (5, 1), (16, 1), (26, 2)]],
    *[Attention(6, 2, dim, dim) for dim in (8, 20, 80, 96, 144)],
    *[Attention(2, 1, 10, 140), Attention(6, 3, 48, 16), Attention(3, 3, 7, 33)],
    *[Attention(6, 2, window=window) for window in (1, 5, 32, 33, 1000)],
    *[Attention(6, 2, 20, 20, softcap=2.0), Attention(4, 1, window=7, softcap=0.5)],
]


@pytest.mark.parametrize("backend", JUDGED)
@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_attention(backend: str, kv_type: str, case: Attention) -> None:
    weights = case.weights()
    assert_agree(
        case.graph(weights), weights, continued_steps(), backend, limits=replace(LIMITS, kv_type=kv_type)
    )


@pytest.mark.parametrize("backend", JUDGED)
@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("window", [None, 300])
def test_a_long_context(backend: str, kv_type: str, window: int | None) -> None:
    """A prompt in chunks, then generated tokens: more than one piece of context."""
    case, ids = Attention(6, 2, 20, 20, window=window), tokens(530)
    weights, blocks = case.weights(), list(range(17))
    steps = [
        batch_of([Part(ids[i : i + count], i, blocks)], every_row=True)
        for i, count in [(0, 128), (128, 127), (255, 128), (383, 128), (511, 1), (512, 1), (513, 17)]
    ]
    limits = replace(LIMITS, kv_type=kv_type, max_ctx=544)
    assert_agree(case.graph(weights), weights, steps, backend, blocks=17, limits=limits)


@pytest.mark.parametrize("backend", JUDGED)
def test_one_overwhelming_position(backend: str) -> None:
    """Scores far apart: the softmax is 1 at one position and 0 elsewhere, never NaN."""
    keys = np.zeros((4, 8), np.float32)
    keys[2] = 1e4
    values = np.random.default_rng(14).normal(size=(4, 8)).astype(np.float32)
    weights = MadeUpWeights(a=FloatRun(np.ones((4, 8), np.float32)), b=FloatRun(keys), c=FloatRun(values))

    def build(g: Graph) -> Value:
        return g.attention(*(g.heads(g.embed(name), 1) for name in "abc"), layer=0, scale=1.0)

    plan = compile_graph(backend, graph_of(weights, build), weights)
    plan.reserve(1)
    found = rows_of(plan, batch_of([Part([0, 1, 2, 3])], every_row=True))
    plan.close()
    assert_close(found[3:], values[2:3])


# -- KV types -----------------------------------------------------------------------------------------


def test_half_floats_are_rounded_to_even() -> None:
    x = np.float32([1, 1 + 2**-11, 1 + 3 * 2**-11, -(2**-25), 65504, 1e6])
    np.testing.assert_array_equal(stored(x, "f16"), np.float32([1, 1, 1 + 2**-9, 0, 65504, np.inf]))


def test_codes_of_8_bits_are_within_half_a_step() -> None:
    x = np.random.default_rng(3).normal(size=(50, 80)).astype(np.float32)
    for group in (slice(0, 32), slice(32, 64), slice(64, 80)):
        steps = np.abs(x[:, group]).max(axis=1, keepdims=True) / 127
        # The scale, a half float, adds 2^-11 of the number itself.
        bound = 0.5 * steps + np.abs(x[:, group]) * 2**-11
        assert (np.abs(stored(x, "q8_0")[:, group] - x[:, group]) <= bound * 1.001).all()


@pytest.mark.parametrize("value", [0.0, 1e-7, 3e-6, 1e-3])
def test_tiny_numbers_keep_their_size(value: float) -> None:
    """Scales below half floats' normal range are coarse, but codes do not overflow."""
    x = np.full((1, 32), value, np.float32)
    assert np.abs(stored(x, "q8_0") - x).max() <= max(0.5 * 2**-24 * 127, value * 2**-8)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_damage_is_seen_by_its_own_sequence_only(kv_type: str) -> None:
    """NaN stays in memory when blocks change hands."""
    case = Attention(2, 1, 32, 32)
    weights = case.weights()
    for name in "abc":
        weights.run_layout(f"{name}.weight").values[7] = np.nan
    plan = compile_graph(
        "cpu", Attention(2, 1, 32, 32).graph(weights), weights, replace(LIMITS, kv_type=kv_type)
    )
    plan.reserve(1)
    assert np.isnan(rows_of(plan, batch_of([Part([7] * 32)]))).all()
    for count in (1, 3, 20):
        found = rows_of(plan, batch_of([Part([1] * count, 0, [0])], every_row=True))
        assert np.isfinite(found).all()
    plan.close()


def test_memory_follows_the_type() -> None:
    weights = Attention(6, 2).weights()
    sizes = {}
    for kv_type in KV_TYPES:
        limits = replace(LIMITS, kv_type=kv_type)
        plan = compile_graph("cpu", Attention(6, 2).graph(weights), weights, limits)
        sizes[kv_type] = plan.block_bytes // plan.block_tokens
        plan.close()
    numbers = 2 * 2 * 2 * 64  # layers, keys and values, heads, dimensions
    assert sizes == {"f32": 4 * numbers, "f16": 2 * numbers, "q8_0": numbers * 34 // 32}


# -- bits ---------------------------------------------------------------------------------------------

LONG = 600
BLOCKS = list(np.random.default_rng(5).permutation(19))
INVARIANT = [
    Attention(6, 2, 20, 20),
    Attention(5, 1, 64, 48, window=290),
    Attention(13, 1, 16, 80, softcap=3.0),
]


def narrow() -> Target:
    """This processor without the wide registers of AVX-512, if it has them."""
    host = Target.host()
    return host if host.description == "NEON" else host.at_most("avx2")


def compile_case(
    case: Attention, kv_type: str, folder: Path, target: Target | None = None, threads: int = 2
) -> Plan:
    weights = case.weights()
    limits = Limits(608, 8, 256, threads, precision="f32", kv_type=kv_type)
    backend = CpuBackend(target, ObjectCache(folder))
    plan = backend.compile(case.graph(weights), weights, limits, no_progress)
    plan.reserve(30)
    return plan


def in_chunks(plan: Plan, *counts: int) -> F32:
    """Rows of a sequence of LONG tokens that is computed so many at a time, in turns."""
    ids, start, rows = tokens(LONG), 0, []
    while start < LONG:
        chunk = ids[start : start + counts[len(rows) % len(counts)]]
        rows.append(rows_of(plan, batch_of([Part(chunk, start, BLOCKS)], every_row=True)))
        start += len(chunk)
    return np.concatenate(rows)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("case", INVARIANT, ids=str)
def test_bits_depend_on_nothing_else(case: Attention, kv_type: str, tmp_path: Path) -> None:
    """Not on how many rows are computed together, on threads, instructions or other sequences."""
    plan = compile_case(case, kv_type, tmp_path)
    expected = in_chunks(plan, 1)
    for counts in [(2,), (13, 1, 5), (256,), (97, 1, 1)]:
        np.testing.assert_array_equal(in_chunks(plan, *counts), expected)
    ids = tokens(LONG)
    for others in ([Part(tokens(1, 1), 0, [20])], [Part(tokens(30, 1), 0, [20]), Part([3], 0, [21])]):
        for count in (1, 3, 40):
            mine = Part(ids[LONG - count :], LONG - count, BLOCKS)
            for parts in ([mine, *others], [*others, mine]):
                batch = batch_of(parts)
                found = rows_of(plan, batch)[parts.index(mine)]
                np.testing.assert_array_equal(found, expected[-1])
    plan.close()
    for target, threads in [(None, 1), (None, 5), (narrow(), 2)]:
        plan = compile_case(case, kv_type, tmp_path, target, threads)
        np.testing.assert_array_equal(in_chunks(plan, 70, 1), expected)
        plan.close()
