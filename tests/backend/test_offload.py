"""Plans whose graph is split between two engines: what they compute, and where their memory lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.engine import Engine
from shimmy.engine.plan import Limits, Plan
from shimmy.engine.protocol import Sampling, Submit
from shimmy.errors import EngineError
from shimmy.graph.lora import Term
from shimmy.graph.offload import split
from shimmy_plugins.backends.wgpu.adapters import list_adapters
from shimmy_plugins.backends.wgpu.backend import WgpuBackend
from shimmy_plugins.backends.wgpu.device import Gpu
from tests import mixture
from tests.backend.harness import (
    BACKENDS,
    F32,
    LIMITS,
    PLUGINS,
    Part,
    assert_close,
    batch_of,
    compile_graph,
    no_progress,
    rows_of,
)
from tests.backend.split import SplitBackend
from tests.lora import with_adapters

pytestmark = pytest.mark.skipif("wgpu" not in BACKENDS, reason="no GPU adapter, not even a software one")

WEIGHTS = mixture.weights()
GRAPH = mixture.graph(WEIGHTS)
#: All layers, experts, some of both.
WISHES = [{"keep_layers": 0}, {"experts_of": 9}, {"keep_layers": 2, "experts_of": 2}]
STEPS = [
    batch_of([Part([1, 2, 3], 0, [0])]),
    batch_of([Part([5], 3, [0]), Part([7, 8, 9, 10], 0, [1]), Part([11, 12], 0, [2])]),
    batch_of([Part([6], 4, [0]), Part([3], 4, [1]), Part([13, 14], 2, [2])], every_row=True),
]


def compile_split(wishes: dict[str, int], limits: Limits = LIMITS, gpu: Gpu | None = None) -> Plan:
    return SplitBackend(gpu, **wishes).compile(GRAPH, WEIGHTS, limits, no_progress)


@pytest.fixture(scope="module", params=WISHES, ids=str)
def plan(request: pytest.FixtureRequest) -> Iterator[Plan]:
    with closing(compile_split(request.param)) as plan:
        yield plan


@pytest.fixture(scope="module")
def reference() -> Iterator[Plan]:
    with closing(compile_graph("reference", GRAPH, WEIGHTS)) as plan:
        yield plan


def steps(plan: Plan, entries: list[tuple[int, int, float]] | None = None) -> list[F32]:
    plan.reserve(0)
    plan.reserve(3)
    return [rows_of(plan, with_adapters(step, entries) if entries else step) for step in STEPS]


def test_agrees_with_the_reference(plan: Plan, reference: Plan) -> None:
    for found, expected in zip(steps(plan), steps(reference), strict=True):
        assert_close(found, expected)


def test_a_row_depends_on_its_phase_but_not_on_its_batch(plan: Plan) -> None:
    together = steps(plan)
    plan.reserve(0)
    plan.reserve(3)
    alone = [
        [rows_of(plan, batch_of([Part([1, 2, 3], 0, [0])]))],
        [rows_of(plan, batch_of([part])) for part in (Part([5], 3, [0]), Part([7, 8, 9, 10], 0, [1]))],
    ]
    np.testing.assert_array_equal(np.concatenate(alone[0]), together[0])
    np.testing.assert_array_equal(np.concatenate(alone[1]), together[1][:2])
    chunked = [rows_of(plan, batch_of([Part(ids, at, [2])])) for at, ids in ((0, [7]), (1, [8, 9, 10]))]
    np.testing.assert_array_equal(chunked[1][0], together[1][1])


def of_experts(term: Callable[[int, int], Term], rows: int, columns: int) -> Term:
    each = [term(rows, columns) for _ in range(mixture.EXPERTS)]
    return Term(*(np.stack([getattr(one, name) for one in each]) for name in "ab"))


def test_adapters_of_both_sides(plan: Plan, reference: Plan) -> None:
    rng = np.random.default_rng(3)

    def term(rows: int, columns: int) -> Term:
        a, b = (rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((4, columns), (rows, 4)))
        return Term(a, b)

    terms = {
        f"blk.{layer}.attn_{name}": term(mixture.WIDTH, mixture.WIDTH) for layer in range(3) for name in "qv"
    }
    for name, shape in (("up", (mixture.WIDE, mixture.WIDTH)), ("down", (mixture.WIDTH, mixture.WIDE))):
        terms |= {f"blk.{layer}.ffn_{name}_exps": of_experts(term, *shape) for layer in (1, 2)}
    terms["token_embd"] = Term(rng.normal(0, 0.3, (mixture.VOCABULARY, mixture.WIDTH)).astype(np.float32))
    plain = steps(plan)
    for each in (plan, reference):
        each.put_adapter(1, terms)
    entries = [(1, 1, 1.0), (2, 1, 0.5)]
    adapted = steps(plan, entries)
    for found, expected, without in zip(adapted, steps(reference, entries), plain, strict=True):
        assert_close(found, expected)
        assert (found != without).any()
    for each in (plan, reference):
        each.put_adapter(1, None)
    for found, without in zip(steps(plan), plain, strict=True):
        np.testing.assert_array_equal(found, without)


def test_requests_that_begin_alike_come_in_chunks_and_are_cancelled(plan: Plan, reference: Plan) -> None:
    rng = np.random.default_rng(5)
    beginning = rng.integers(0, mixture.VOCABULARY, 70).tolist()
    prompts = [beginning + rng.integers(0, mixture.VOCABULARY, count).tolist() for count in (3, 1, 9, 20)]

    def answers(plan: Plan, *, cancelled: int | None = None) -> dict[int, list[int]]:
        plan.reserve(0)
        engine = Engine(
            plan,
            context=128,
            vocabulary=mixture.VOCABULARY,
            kv_blocks=16,
            max_sequences=3,
            step_tokens=24,
            kept_blocks=8,
        )
        for number, prompt in enumerate(prompts):
            engine.submit(Submit(number, prompt, 6, Sampling(temperature=0.0)))
        tokens: dict[int, list[int]] = {}
        reused = 0
        while not engine.idle:
            for event in engine.step():
                assert event.token is not None
                tokens.setdefault(event.id, []).append(event.token)
                reused = max(reused, event.reused)
            if cancelled in tokens:
                engine.cancel(cancelled)
        assert reused == 64
        return tokens

    expected = answers(reference)
    assert answers(plan) == expected
    assert answers(plan, cancelled=2) == expected | {2: expected[2][:1]}


@pytest.mark.parametrize("wishes", WISHES, ids=str)
def test_what_leaves_takes_no_memory_of_the_gpu(wishes: dict[str, int]) -> None:
    gpu = Gpu(list_adapters()[0])
    with closing(WgpuBackend(PLUGINS, gpu).compile(GRAPH, WEIGHTS, LIMITS, no_progress)) as whole:
        all_weights, all_memory, block = whole.weight_bytes, whole.device_bytes, whole.block_bytes
    parts = split(GRAPH, **wishes)
    assert parts is not None
    stays = {name for node in parts.graph.nodes for name in node.weights.values()}
    left = sum(WEIGHTS.dequantize(name).nbytes for name in WEIGHTS.names() if name not in stays)
    with closing(compile_split(wishes, gpu=Gpu(list_adapters()[0]))) as plan:
        assert plan.host is not None
        assert plan.weight_bytes == all_weights - left
        assert plan.host.weight_bytes > 0
        assert plan.device_bytes is not None
        assert all_memory is not None
        assert plan.device_bytes <= all_memory - left
        assert plan.block_bytes == block
        assert parts.what in plan.description
        assert plan.ahead == 1
    gpu.close()


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_both_sides_store_keys_and_values_alike(kv_type: str) -> None:
    limits = replace(LIMITS, kv_type=kv_type)
    plans = compile_graph("reference", GRAPH, WEIGHTS, limits), compile_split({"keep_layers": 2}, limits)
    assert plans[1].kv_type == kv_type
    for expected, found in zip(*map(steps, plans), strict=True):
        assert_close(found, expected, 1e-4)
    for plan in plans:
        plan.close()


def test_a_step_that_does_not_fit_is_refused(plan: Plan) -> None:
    plan.reserve(1)
    with pytest.raises(EngineError, match=r"KV block"):
        rows_of(plan, batch_of([Part([1], 0, [1])]))


def test_experts_of_the_rows_whose_logits_are_wanted() -> None:
    graph = mixture.graph(WEIGHTS, early=True)
    split_plan = SplitBackend(experts_of=9).compile(graph, WEIGHTS, LIMITS, no_progress)
    plans = compile_graph("reference", GRAPH, WEIGHTS), split_plan
    for expected, found in zip(*map(steps, plans), strict=True):
        assert_close(found, expected)
    for plan in plans:
        plan.close()
