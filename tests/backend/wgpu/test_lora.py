"""Adapters on the GPU, in both phases of a step: what they add, and what memory they take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.plan import Plan, StepLostError
from shimmy.engine.protocol import MOST_MIXED
from shimmy.errors import EngineError, OutOfMemoryError
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Value
from shimmy.graph.lora import Term
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Size
from shimmy_plugins.backends.wgpu.ops import linear_vec, lora
from shimmy_plugins.backends.wgpu.plan import WgpuPlan
from shimmy_plugins.backends.wgpu.step import HEADER, ROW, phase_words
from tests.backend.harness import (
    AFFINE,
    GREEDY,
    LIMITS,
    PLUGINS,
    MadeUpWeights,
    Part,
    affine,
    assert_close,
    backend_named,
    batch_of,
    compile_graph,
    floats,
    graph_of,
    no_progress,
    rows_of,
)
from tests.lora import with_adapters

WIDTH, INNER, VOCABULARY = 40, 72, 19
TOKENS = [1, 5, 2, 3, 3, 7, 11]


def weights(**more: tuple[int, int]) -> MadeUpWeights:
    rng = np.random.default_rng(1)
    shapes = more | {
        "a": (VOCABULARY, WIDTH),
        "gate": (INNER, WIDTH),
        "up": (INNER, WIDTH),
        "down": (WIDTH, INNER),
        "head": (VOCABULARY, WIDTH),
    }
    made = MadeUpWeights(**{name: floats(rng, *shape) for name, shape in shapes.items()})
    return made.with_vectors(norm__weight=rng.normal(1, 0.1, WIDTH).astype(np.float32))


def build(g: Graph) -> Value:
    """Each way a product ends: stored, added, gated; with a norm before it; of rows that are wanted."""
    x = g.embed("a")
    normed = g.rms_norm(x, "norm", eps=1e-5)
    x = x + g.linear(g.swiglu(g.linear(normed, "gate"), g.linear(normed, "up")), "down")
    return g.linear(g.last(g.rms_norm(x, "norm", eps=1e-5)), "head")


def terms(seed: int, rank: int = 9, dtype: type = np.float16) -> dict[str, Term]:
    """For all nodes."""
    rng = np.random.default_rng(seed)

    def term(rows: int, columns: int) -> Term:
        a, b = (rng.normal(0, 0.2, shape).astype(dtype) for shape in ((rank, columns), (rows, rank)))
        return Term(a, b, 1.5)

    embedding = rng.normal(0, 0.2, (VOCABULARY, rank)).astype(dtype)
    return {
        "a": Term(embedding, rng.normal(0, 0.2, (WIDTH, rank)).astype(dtype), 0.5),
        "gate": term(INNER, WIDTH),
        "up": replace(term(INNER, WIDTH), offset=rng.normal(0, 1, INNER).astype(np.float32)),
        "down": term(WIDTH, INNER),
        "head": Term(b=rng.normal(0, 0.2, (VOCABULARY, WIDTH)).astype(np.float32)),
    }


@pytest.fixture
def plan(gpu: Gpu) -> WgpuPlan:
    return plan_on(gpu)


def plan_on(gpu: Gpu) -> WgpuPlan:
    base = weights()
    plan = WgpuBackend(PLUGINS, gpu).compile(graph_of(base, build), base, LIMITS, no_progress)
    assert isinstance(plan, WgpuPlan)
    plan.reserve(len(TOKENS))
    return plan


@pytest.fixture
def expected() -> Callable[[dict[int, dict[str, Term]], Batch], np.ndarray]:
    def compute(adapters: dict[int, dict[str, Term]], batch: Batch) -> np.ndarray:
        base = weights()
        plan = compile_graph("reference", graph_of(base, build), base)
        plan.reserve(len(TOKENS))
        for place, each in adapters.items():
            plan.put_adapter(place, each)
        return rows_of(plan, batch)

    return compute


def step(generated: int, entries: list[tuple[int, int, float]]) -> Batch:
    """A row each of seven sequences, some of which are generated."""
    batch = batch_of([Part([token], 0, (i,)) for i, token in enumerate(TOKENS)])
    return replace(with_adapters(batch, entries), generated=generated)


ENTRIES = [(0, 1, 1.0), (2, 0, 0.5), (2, 1, -1.0), (5, 0, 1.0), (6, 1, 2.0)]


@pytest.mark.parametrize("generated", [0, 4, 7])
def test_rows_of_both_phases(
    plan: Plan, expected: Callable[[dict[int, dict[str, Term]], Batch], np.ndarray], generated: int
) -> None:
    adapters = {0: terms(2), 1: terms(3, 20, np.float32)}
    for place, each in adapters.items():
        plan.put_adapter(place, each)
    batch = step(generated, ENTRIES)
    assert_close(rows_of(plan, batch), expected(adapters, batch))


def test_without_subgroups(
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    expected: Callable[[dict[int, dict[str, Term]], Batch], np.ndarray],
) -> None:
    monkeypatch.setattr(gpu, "subgroup", 0)
    plan = plan_on(gpu)
    plan.put_adapter(1, terms(3))
    batch = step(4, [(row, 1, 0.5) for row in range(7)])
    assert_close(rows_of(plan, batch), expected({1: terms(3)}, batch))


@pytest.mark.parametrize("generated", [0, 1, 7])
def test_norms_that_take_a_mean_off_and_other_ends(gpu: Gpu, generated: int) -> None:
    def build(g: Graph) -> Value:
        x = g.embed("a")
        normed = g.layer_norm(x, "norm", eps=1e-5)
        x = x + g.linear(g.geglu(g.linear(normed, "gate"), g.linear(normed, "up")), "down")
        return g.linear(g.last(g.gelu(g.linear(g.layer_norm(x, "norm", eps=1e-5), "square"))), "head")

    rng = np.random.default_rng(9)
    base = weights(square=(WIDTH, WIDTH))
    base.with_vectors(norm__bias=rng.normal(size=WIDTH).astype(np.float32))
    graph, batch = graph_of(base, build), step(generated, ENTRIES)
    adapters = {0: terms(2), 1: terms(3, 20, np.float32)}
    square = rng.normal(0, 0.2, (2, WIDTH, 6)).astype(np.float32)
    adapters[1]["square"] = Term(square[0].T.copy(), square[1], 0.5)
    found = []
    for backend in (WgpuBackend(PLUGINS, gpu), backend_named("reference")):
        plan = backend.compile(graph, base, LIMITS, no_progress)
        plan.reserve(len(TOKENS))
        plain = rows_of(plan, replace(batch, lora=None))
        for place, each in adapters.items():
            plan.put_adapter(place, each)
        found.append(rows_of(plan, batch))
        plan.close()
        if backend is not backend_named("reference"):
            without = [row for row in range(len(TOKENS)) if row not in {entry[0] for entry in ENTRIES}]
            np.testing.assert_array_equal(found[0][without], plain[without])
    assert_close(*found)


@pytest.mark.parametrize("generated", [0, 7])
def test_adapters_read_what_is_not_rounded_to_8_bits(gpu: Gpu, generated: int) -> None:
    rng = np.random.default_rng(8)
    table = floats(rng, VOCABULARY, 64)
    base = MadeUpWeights(a=table, head=affine(rng, 16, 64, AFFINE[0]))
    graph = graph_of(base, lambda g: g.linear(g.last(g.embed("a")), "head"))
    plan = WgpuBackend(PLUGINS, gpu).compile(graph, base, replace(LIMITS, precision="int8"), no_progress)
    plan.reserve(len(TOKENS))
    a, b = (rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((5, 64), (16, 5)))
    plan.put_adapter(0, {"head": Term(a, b, 2.0)})
    found = rows_of(plan, step(generated, [(row, 0, 1.0) for row in range(7)]))
    assert_close(found - rows_of(plan, step(generated, [])), 2.0 * table.values[TOKENS] @ a.T @ b.T, 2e-5)


def test_rows_without_adapters_have_the_bits_they_have_without_any(plan: Plan) -> None:
    for generated in (0, 4, 7):
        plain = rows_of(plan, step(generated, []))
        plan.put_adapter(0, terms(2))
        plan.put_adapter(1, terms(3))
        found = rows_of(plan, step(generated, ENTRIES))
        without = [1, 3, 4]
        np.testing.assert_array_equal(found[without], plain[without])
        assert (found[[0, 2, 5, 6]] != plain[[0, 2, 5, 6]]).any(axis=1).all()


def test_generated_rows_have_their_bits_whatever_is_beside_them(plan: Plan) -> None:
    plan.put_adapter(0, terms(2))
    plan.put_adapter(1, terms(3, 20))
    together = rows_of(plan, step(7, ENTRIES))
    for row, token in enumerate(TOKENS):
        entries = [(0, place, factor) for at, place, factor in ENTRIES if at == row]
        alone = replace(with_adapters(batch_of([Part([token])]), entries), generated=1)
        np.testing.assert_array_equal(rows_of(plan, alone)[0], together[row])


def meeting(plan: WgpuPlan) -> WgpuPlan:
    """A software GPU does not run workgroups beside each other by itself."""
    state = plan._adapted._state
    assert state
    state.meets = True
    state.version += 1
    return plan


def alone(row: int) -> Batch:
    entries = [(0, place, factor) for at, place, factor in ENTRIES if at == row]
    return replace(with_adapters(batch_of([Part([TOKENS[row]])]), entries), generated=1)


def test_a_row_that_waits_for_others_has_the_bits_of_one_of_several(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_vec, "PATIENCE", 1 << 15)
    plan = plan_on(gpu)
    for place, rank in ((0, 9), (1, 40)):
        plan.put_adapter(place, terms(2 + place, rank))
    together = rows_of(plan, step(7, ENTRIES))
    in_time = 0
    for row in (2, 5) * 10:
        # Whether A x comes in time is a matter of how workgroups are scheduled.
        with suppress(StepLostError):
            np.testing.assert_array_equal(rows_of(meeting(plan), alone(row))[0], together[row])
            in_time += 1
        state = plan._adapted._state
        assert state
        gpu.upload(state.in_vain, np.zeros(4, np.uint32))
    assert in_time


def test_a_step_that_waits_in_vain_is_void_and_no_other_waits(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_vec, "PATIENCE", 0)
    plan = plan_on(gpu)
    plan.put_adapter(0, terms(2))
    plan.put_adapter(1, terms(3))
    together = rows_of(plan, step(7, ENTRIES))
    lost = meeting(plan).submit(alone(2), [GREEDY])
    for wait in (lost.chosen, lost.logits):
        with pytest.raises(StepLostError, match="beside each other"):
            wait()
    np.testing.assert_array_equal(rows_of(plan, alone(2))[0], together[2])


def test_a_row_does_not_wait_for_more_than_there_is_room_for(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_vec, "PATIENCE", 0)
    monkeypatch.setattr(lora, "_MET_MEMORY", 4 * MOST_MIXED * 3 * lora.CHUNK)
    plan = plan_on(gpu)
    for place, rank in ((0, lora.CHUNK), (1, 3 * lora.CHUNK + 1)):
        plan.put_adapter(place, terms(2 + place, rank))
    together = rows_of(plan, step(7, ENTRIES))
    np.testing.assert_array_equal(rows_of(meeting(plan), alone(2))[0], together[2])
    plan.put_adapter(1, None)
    with pytest.raises(StepLostError):
        rows_of(plan, alone(5))


@pytest.mark.parametrize("rows", [1, 7])
def test_adapters_add_no_dispatch_to_products_of_generated_rows(plan: WgpuPlan, rows: int) -> None:
    """But where one has a B without an A, a single row is computed as several are."""
    plan.put_adapter(0, {name: term for name, term in terms(2).items() if name != "head"})
    meeting(plan)
    plain, adapted = (
        phases[0][1].calls_at(Size(rows, rows, 64)) for phases in (plan._programs, plan._adapted.phases)
    )
    found = [[dispatch.node for dispatch, _ in calls] for calls in (*plain, *adapted)]
    assert [node for node in found[1] if node not in ("lora.clear", "a.lora")] == found[0]
    # Nobody waits for anything but a single row.
    assert ("lora.clear" in found[1]) == (rows == 1)


def test_memory_of_adapters_that_are_forgotten_is_given_back(plan: Plan, gpu: Gpu) -> None:
    plan.put_adapter(0, terms(2))
    plan.put_adapter(0, None)
    rows_of(plan, step(7, []))
    empty = gpu.used
    plan.put_adapter(0, terms(2))
    assert gpu.used - empty >= sum(term.bytes for term in terms(2).values())
    plan.put_adapter(1, terms(3))
    both = rows_of(plan, step(7, ENTRIES))
    plan.put_adapter(0, None)
    plan.put_adapter(1, None)
    rows_of(plan, step(7, []))
    assert gpu.used == empty
    for place in (1, 0):
        plan.put_adapter(place, terms(2 + place))
    np.testing.assert_array_equal(rows_of(plan, step(7, ENTRIES)), both)


def test_an_adapter_that_does_not_fit_leaves_all_as_it_was(plan: Plan, gpu: Gpu) -> None:
    plan.put_adapter(0, terms(2))
    batch = step(4, [(row, 0, 1.0) for row in range(7)])
    before, gpu.memory = rows_of(plan, batch), None
    used = gpu.used
    gpu.memory = used + 10_000
    try:
        for place in (0, 1):
            with pytest.raises(OutOfMemoryError, match="no memory for adapters of "):
                plan.put_adapter(place, terms(3, 64, np.float32))
        assert gpu.used == used
        np.testing.assert_array_equal(rows_of(plan, batch), before)
    finally:
        gpu.memory = None


def test_entries_lie_behind_the_rest_of_a_phases_numbers() -> None:
    words = phase_words(step(4, ENTRIES), slice(4, 7), 4)
    entries = 2 * 2 * MOST_MIXED
    assert len(words) == HEADER + 3 * ROW + 3 + 3 + entries
    starts = words[HEADER : HEADER + 3 * ROW].reshape(3, ROW)[:, 3]
    assert starts.tolist() == [0, len(words) - entries, len(words) - entries // 2]
    one, two = np.array([1.0, 2.0], np.float32).view(np.int32)
    assert words[starts[1] : starts[2]].tolist() == [1, one, *[0] * (2 * MOST_MIXED - 2)]
    assert words[starts[2] :].tolist() == [2, two, *[0] * (2 * MOST_MIXED - 2)]


def test_entries_that_shaders_could_not_read_are_refused(plan: Plan) -> None:
    with pytest.raises(EngineError, match="not loaded"):
        plan.submit(step(7, [(0, 0, 1.0)]), [])
    for place in range(5):
        plan.put_adapter(place, {"down": terms(2)["down"]})
    for entries, message in (
        ([(7, 0, 1.0)], "a row outside the step"),
        ([(-1, 0, 1.0)], "a row outside the step"),
        ([(3, place, 1.0) for place in range(5)], "a row has 5 adapters, at most 4"),
        ([(3, 6, 1.0)], "not loaded"),
    ):
        with pytest.raises(EngineError, match=message):
            plan.submit(step(7, entries), [])
