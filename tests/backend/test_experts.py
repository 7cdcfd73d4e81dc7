"""Mixtures of experts on the CPU engine: odd shapes, activations of 8 bits, and a row's bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shimmy.engine.plan import Limits, Plan
from shimmy.graph.builder import Graph, Value
from shimmy_plugins.backends.cpu.backend import CpuBackend
from shimmy_plugins.backends.cpu.jit import Target
from shimmy_plugins.backends.cpu.object_cache import ObjectCache
from tests.backend.harness import (
    F32,
    FLAT,
    LIMITS,
    Affine,
    MadeUpWeights,
    Part,
    affine,
    assert_agree,
    assert_close,
    batch_of,
    compile_graph,
    floats,
    graph_of,
    no_progress,
    rows_of,
)

VOCABULARY, EXPERTS, USED = 40, 5, 3
INT8 = replace(LIMITS, precision="int8")
#: Group 16 makes rows of half a block of activations possible.
LAYOUTS = [Affine(4, 32, centred=True), Affine(6, 16), Affine(4, 32, factor=np.uint8)]
#: Numbers that are looked up, and scales that are powers of two.
CODEBOOK = Affine(4, 32, np.uint8, centred=True, codebook=(*range(1, 25, 2), 32, 48, 64, 96))

pytestmark = pytest.mark.skipif(Target.host().problem() is not None, reason="the cpu backend cannot run here")


def mixture(layout: object, width: int = 64, inner: int = 48) -> MadeUpWeights:
    """Embeddings a (rows) and b (logits of experts), and experts up and down."""
    rng = np.random.default_rng(21)
    multiple = layout.columns if isinstance(layout, Affine) else 1
    width, inner = (-(-n // multiple) * multiple for n in (width, inner))

    def experts(rows: int, columns: int) -> object:
        if isinstance(layout, Affine):
            return affine(rng, EXPERTS * rows, columns, layout)
        return floats(rng, EXPERTS * rows, columns, str(layout))

    weights = MadeUpWeights(
        a=floats(rng, VOCABULARY, width),
        b=floats(rng, VOCABULARY, EXPERTS),
        up=experts(inner, width),
        down=experts(width, inner),
    )
    return weights.stacked(up=EXPERTS, down=EXPERTS)


def compute(g: Graph) -> Value:
    """What a layer of experts is made of."""
    x, chosen = g.embed("a"), g.top_experts(g.embed("b"), USED, normalize=True)
    middle = g.swiglu(g.expert_linear(x, "up", chosen), g.expert_linear(x, "up", chosen))
    return g.expert_sum(g.expert_linear(middle, "down", chosen), chosen)


def products(g: Graph) -> Value:
    """The first products alone, as a row."""
    chosen = g.top_experts(g.embed("b"), USED, normalize=True)
    return g.op(FLAT.name, g.expert_linear(g.embed("a"), "up", chosen))


def tokens(count: int, seed: int = 0) -> list[int]:
    return list(np.random.default_rng(seed).integers(0, VOCABULARY, count))


@pytest.mark.parametrize(("width", "inner"), [(33, 17), (7, 5), (16, 40)])
@pytest.mark.parametrize("layout", ["f32", "f16"])
def test_rows_and_columns_that_fill_no_vector(layout: str, width: int, inner: int) -> None:
    weights = mixture(layout, width, inner)
    steps = [batch_of([Part(tokens(n), 0, range(3))], every_row=True) for n in (1, 2, 13, 90)]
    assert_agree(graph_of(weights, compute), weights, steps, "cpu", blocks=3)


@pytest.mark.parametrize("layout", [*LAYOUTS, CODEBOOK], ids=str)
def test_activations_of_8_bits_are_those_of_linear(layout: Affine) -> None:
    """Each expert's rows have the bits that a linear with its matrix gives."""
    weights = mixture(layout)
    plan = compile_graph("cpu", graph_of(weights, products), weights, INT8)
    plan.reserve(1)
    step = batch_of([Part(range(20))], every_row=True)
    found = rows_of(plan, step).reshape(20, USED, -1)
    plan.close()
    size = found.shape[2]
    each = []
    for expert in range(EXPERTS):
        own = MadeUpWeights(
            a=weights.run_layout("a.weight"),
            w=weights.run_layout("up.weight", slice(expert * size, (expert + 1) * size)),
        )
        plan = compile_graph("cpu", graph_of(own, lambda g: g.linear(g.embed("a"), "w")), own, INT8)
        plan.reserve(1)
        each.append(rows_of(plan, step))
        plan.close()
    chosen = np.argsort(-weights.dequantize("b.weight")[:20], axis=1, kind="stable")[:, :USED]
    for row in range(20):
        np.testing.assert_array_equal(found[row], [each[expert][row] for expert in chosen[row]])


def test_what_is_no_number_stays_in_its_row() -> None:
    weights = mixture("f16")
    logits = weights.run_layout("b.weight").values
    logits[0], logits[1, 2] = np.nan, np.nan
    plan = compile_graph("cpu", graph_of(weights, compute), weights)
    plan.reserve(1)
    found = rows_of(plan, batch_of([Part([0, 1, 2, 3])], every_row=True))
    plan.close()
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2:]).all()


def test_all_rows_may_choose_the_same_experts() -> None:
    weights = mixture(LAYOUTS[0])
    weights.run_layout("b.weight").values[:] = 1
    found = []
    for limits in (LIMITS, INT8):
        plan = compile_graph("cpu", graph_of(weights, compute), weights, limits)
        plan.reserve(4)
        found.append(rows_of(plan, batch_of([Part(tokens(100), 0, range(4))], every_row=True)))
        plan.close()
    assert_close(found[1], found[0], 0.02)


# -- bits ---------------------------------------------------------------------------------------------


def compile_mixture(layout: object, limits: Limits, folder: Path, target: Target | None = None) -> Plan:
    weights = mixture(layout)
    backend = CpuBackend(target, ObjectCache(folder))
    plan = backend.compile(graph_of(weights, compute), weights, limits, no_progress)
    plan.reserve(8)
    return plan


def in_chunks(plan: Plan, ids: Sequence[int], *counts: int) -> F32:
    """Rows of a sequence that is computed so many at a time, in turns."""
    start, rows = 0, []
    while start < len(ids):
        chunk = ids[start : start + counts[len(rows) % len(counts)]]
        rows.append(rows_of(plan, batch_of([Part(chunk, start, range(4))], every_row=True)))
        start += len(chunk)
    return np.concatenate(rows)


@pytest.mark.parametrize(
    ("layout", "precision"), [(LAYOUTS[0], "int8"), (LAYOUTS[1], "int8"), (LAYOUTS[1], "f32"), ("f16", "f32")]
)
def test_bits_depend_on_nothing_else(layout: object, precision: str, tmp_path: Path) -> None:
    """Not on which rows share an expert, on threads, or on the width of registers."""
    limits, ids = replace(LIMITS, precision=precision), tokens(100)
    plan = compile_mixture(layout, limits, tmp_path)
    expected = in_chunks(plan, ids, 1)
    for counts in [(2,), (13, 1, 5), (100,), (37,)]:
        np.testing.assert_array_equal(in_chunks(plan, ids, *counts), expected)
    others = [Part(tokens(1, seed), 0, [6]) for seed in range(7)]
    found = rows_of(plan, batch_of([*others[:3], Part(ids[:1]), *others[3:]]))
    np.testing.assert_array_equal(found[3], expected[0])
    plan.close()
    host = Target.host()
    narrow = host if host.description == "NEON" else host.at_most("avx2")
    for target, threads in [(None, 1), (None, 5), (narrow, 2)]:
        plan = compile_mixture(layout, replace(limits, threads=threads), tmp_path, target)
        np.testing.assert_array_equal(in_chunks(plan, ids, 70, 1), expected)
        plan.close()
