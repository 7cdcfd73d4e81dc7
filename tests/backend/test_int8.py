"""Activations of 8 bits: the CPU engine against NumPy, with every kind of instruction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.plan import Plan
from shimmy.errors import ConfigError
from shimmy.gguf.quant import FloatRun
from shimmy.graph.builder import Graph
from shimmy_plugins.backends.cpu.backend import CpuBackend
from shimmy_plugins.backends.cpu.jit import Target
from shimmy_plugins.backends.cpu.kernels.dot import DOTS
from shimmy_plugins.backends.cpu.object_cache import ObjectCache
from tests.backend.harness import (
    AFFINE,
    F32,
    LIMITS,
    Affine,
    MadeUpWeights,
    Part,
    affine,
    assert_close,
    batch_of,
    compile_graph,
    compile_model,
    compile_with,
    floats,
    graph_of,
    no_progress,
    rows_of,
)
from tests.zoo import model_path

INT8 = replace(LIMITS, precision="int8")
VOCABULARY = 19
SHAPES = [(1, 32), (15, 96), (17, 256), (48, 32)]
TOKENS = [1, 2, 3, 8, 13, 31]

pytestmark = pytest.mark.skipif(Target.host().problem() is not None, reason="the cpu backend cannot run here")


def target_with(dot: str) -> Target:
    """This processor, with instructions for dot products that it would not choose itself."""
    host = Target.host()
    # Where a product takes many instructions, tiles are small: less code to compile.
    forced = {"dot": dot, "accumulators": host.accumulators if dot == host.dot else 6}
    return type("OtherTarget", (Target,), forced)(host.cpu, host.features)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ObjectCache:
    """Many tests use the same kernels."""
    return ObjectCache(tmp_path_factory.mktemp("kernels"))


def dots_of_this_processor() -> list[str]:
    """Instructions for dot products that this processor has, and what needs none."""
    features = set(Target.host().features.split(","))
    needs = {"vnni512": "+avx512vnni", "vnni256": "+avx512vnni", "avx2": "+avx2", "sdot": "+dotprod"}
    return [dot for dot in DOTS if needs.get(dot) in features | {None}]


def as_quantised(x: F32) -> tuple[F32, F32]:
    """(rows, columns) rounded to 8 bits by blocks of 32, in F32 again; and half a step of each block."""
    padded = np.zeros((len(x), -(-x.shape[1] // 32), 32), np.float32)
    padded.reshape(len(x), -1)[:, : x.shape[1]] = x
    largest = np.abs(padded).max(axis=2, keepdims=True)
    scale = largest / np.float32(127)
    codes = np.rint(padded * (np.float32(127) / np.maximum(largest, np.float32(1e-30))))
    rounded, half_steps = scale * codes, np.broadcast_to(scale / 2, padded.shape)
    return tuple(a.reshape(len(x), -1)[:, : x.shape[1]] for a in (rounded, half_steps))  # type: ignore[return-value]


def linear(weights: MadeUpWeights) -> Graph:
    return graph_of(weights, lambda g: g.linear(g.embed("a"), "w"))


def compile_dot(dot: str, weights: MadeUpWeights, cache: ObjectCache) -> Plan:
    plan = CpuBackend(target_with(dot), cache).compile(linear(weights), weights, INT8, no_progress)
    plan.reserve(1)
    return plan


@pytest.mark.parametrize("form", AFFINE, ids=str)
def test_linear(form: Affine, cache: ObjectCache) -> None:
    """Equal to F32 arithmetic on rounded activations, so within half a step for each of them."""
    rng = np.random.default_rng(1)
    for rows, columns in SHAPES + [(16, 48), (33, 16)] * (form.group == 16):
        columns = -(-columns // form.columns) * form.columns
        w = affine(rng, rows, columns, form)
        weights = MadeUpWeights(a=floats(rng, VOCABULARY, columns), w=w)
        plans = [compile_dot(dot, weights, cache) for dot in dots_of_this_processor()]
        for tokens in TOKENS:
            batch = batch_of([Part(rng.integers(0, VOCABULARY, tokens))], every_row=True)
            found = [rows_of(plan, batch) for plan in plans]
            for other in found[1:]:
                np.testing.assert_array_equal(other, found[0])
            x, matrix = weights.dequantize("a.weight")[batch.tokens], weights.dequantize("w.weight")
            rounded, half_steps = as_quantised(x)
            assert_close(found[0], rounded @ matrix.T)
            bound = half_steps @ np.abs(matrix).T + 1e-5 * np.linalg.norm(x @ matrix.T, axis=1)[:, None]
            assert (np.abs(found[0] - x @ matrix.T) <= 1.001 * bound).all()
        assert {plan.precision for plan in plans} == {"int8"}
        for plan in plans:
            plan.close()


def test_extreme_codes_do_not_overflow(cache: ObjectCache) -> None:
    """All codes and all activations as large as can be, with either sign."""
    signs = np.repeat([[1.0], [-1.0]], 64, axis=1).astype(np.float32)
    for bits in (1, 4, 5, 6, 7, 8):
        w = affine(np.random.default_rng(2), 16, 64, Affine(bits, 32))
        w.codes[:] = 2**bits - 1
        weights = MadeUpWeights(a=FloatRun(signs), w=w)
        for dot in dots_of_this_processor():
            plan = compile_dot(dot, weights, cache)
            found = rows_of(plan, batch_of([Part([0, 1])], every_row=True))
            plan.close()
            assert_close(found, signs @ weights.dequantize("w.weight").T)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_damage_is_not_hidden(damage: float) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4, 64)).astype(np.float32)
    rows[0], rows[1, 5], rows[2] = 0, damage, 1e-38
    weights = MadeUpWeights(a=FloatRun(rows), w=affine(rng, 16, 64, Affine(4, 32)))
    plan = compile_graph("cpu", linear(weights), weights, INT8)
    plan.reserve(1)
    found = rows_of(plan, batch_of([Part([0, 1, 2, 3])], every_row=True))
    plan.close()
    assert not np.isfinite(found[1]).any()
    np.testing.assert_array_equal(found[0], 0)
    assert np.abs(found[2]).max() < 1e-30
    assert np.isfinite(found[3]).all()


def test_matrices_of_floats_stay_exact() -> None:
    plans = [
        compile_model("cpu", model_path("llama_spm.f16"), replace(LIMITS, precision=precision))
        for precision in ("f32", "int8", "auto")
    ]
    found = []
    for plan in plans:
        plan.reserve(1)
        found.append(rows_of(plan, batch_of([Part([5, 6, 7])])))
        assert plan.precision == "f32"
        plan.close()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize(("model", "precision"), [("llama_spm.q4_0", "int8"), ("llama_spm.f16", "f32")])
def test_auto_is_int8_where_weights_are_codes(model: str, precision: str) -> None:
    plan = compile_model("cpu", model_path(model), replace(LIMITS, precision="auto"))
    assert plan.precision == precision
    plan.close()


def test_the_reference_computes_in_f32_only() -> None:
    weights = MadeUpWeights(
        a=floats(np.random.default_rng(4), 3, 32), w=floats(np.random.default_rng(5), 3, 32)
    )
    with pytest.raises(ConfigError, match="'int8'.*f32 only"):
        compile_graph("reference", linear(weights), weights, INT8)


def test_a_model_has_the_same_bits_on_all_instructions(cache: ObjectCache) -> None:
    ids = np.random.default_rng(6).integers(3, 2000, 40)
    found = []
    for dot in dots_of_this_processor():
        backend = CpuBackend(target_with(dot), cache)
        plan = compile_with(backend, model_path("llama_spm.q4_k_m"), INT8)
        plan.reserve(2)
        found.append(rows_of(plan, batch_of([Part(ids, 0, [0, 1])], every_row=True)))
        plan.close()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
