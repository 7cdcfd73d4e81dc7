"""What adapters cost on the CPU: the shape of TinyLlama 1.1B in Q4_0, rank 16 on all linears, F16."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter

import numpy as np
import pytest

from shimmy.engine.plan import Limits, Plan
from shimmy.graph.lora import Term, target_labels
from shimmy_plugins.commands.bench.random_model import cached_model
from shimmy_plugins.commands.bench.shapes import shape_named
from tests.backend.harness import GREEDY, PLUGINS, Part, batch_of, compile_model
from tests.lora import open_base, with_adapters

RANK, ADAPTERS = 16, 8
STEPS, WARM_UP = 24, 4


def made_up(base, rng: np.random.Generator) -> dict[str, Term]:
    """An adapter of random numbers on every matrix but the head."""
    terms = {}
    for label, node in target_labels(base.graph).items():
        if node.op == "linear" and label.startswith("blk."):
            rows, columns = base.weights.shape(node.weights["weight"])
            a, b = (rng.normal(0, 0.01, s).astype(np.float16) for s in ((RANK, columns), (rows, RANK)))
            terms[label] = Term(a, b, 1.0)
    return terms


def step_seconds(plan: Plan, kinds: Sequence[Sequence[int | None]]) -> list[float]:
    """The median time of a step of each kind, taken in turns; a kind is the adapter of each sequence."""
    times: list[list[float]] = [[] for _ in kinds]
    for position in range(WARM_UP + STEPS):
        for kind, taken in zip(kinds, times, strict=True):
            batch = batch_of([Part([7], position, (i,)) for i in range(len(kind))])
            entries = [(row, place, 1.0) for row, place in enumerate(kind) if place is not None]
            batch = with_adapters(batch, entries) if entries else batch
            started = perf_counter()
            plan.submit(batch, [GREEDY] * len(kind))
            if position >= WARM_UP:
                taken.append(perf_counter() - started)
    return [median(taken) for taken in times]


@pytest.mark.full
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_decoding_with_adapters(precision: str) -> None:
    path = cached_model(shape_named("tinyllama-1.1b"), "Q4_0", PLUGINS.quant_types)
    limits = Limits(max_ctx=512, max_sequences=ADAPTERS, step_tokens=64, threads=2, precision=precision)
    plan = compile_model("cpu", path, limits)
    plan.reserve(ADAPTERS)
    base, rng = open_base(path), np.random.default_rng(1)
    for place in range(ADAPTERS):
        plan.put_adapter(place, made_up(base, rng))
    plain, one, same, different = step_seconds(plan, [[None], [0], [0] * ADAPTERS, list(range(ADAPTERS))])
    plan.close()
    print(  # noqa: T201
        f"{precision}: {1 / plain:.1f} tokens/s, with an adapter {plain / one:.3f} of it; "
        f"{ADAPTERS} sequences with different ones {same / different:.3f} of those with one"
    )
    assert plain / one >= 0.85
    assert same / different >= 0.6
