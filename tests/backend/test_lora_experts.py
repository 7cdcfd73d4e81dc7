"""What adapters add to products of experts, on each engine, against its NumPy definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from shimmy.graph.builder import Graph, Value
from shimmy.graph.lora import Term
from tests.backend.harness import (
    JUDGED,
    MadeUpWeights,
    Part,
    assert_close,
    batch_of,
    compile_graph,
    floats,
    graph_of,
    rows_of,
)
from tests.lora import with_adapters

VOCABULARY, EXPERTS, USED = 19, 5, 2
#: Whole vectors and blocks, and none.
SIZES = [(32, 64), (20, 12), (40, 23)]

pytestmark = pytest.mark.parametrize("backend", JUDGED)


def build(g: Graph) -> Value:
    """A layer of experts with a gate; the second of its inputs is one for each expert."""
    return layer(g, g.embed("a"), late=False)


def build_late(g: Graph) -> Value:
    """The same for the rows whose logits are wanted."""
    return layer(g, g.last(g.embed("a")), late=True)


def layer(g: Graph, x: Value, *, late: bool) -> Value:
    chosen = g.top_experts(g.linear(x, "router"), USED, normalize=True)
    gate, up = (g.expert_linear(x, name, chosen) for name in ("gate", "up"))
    y = g.expert_sum(g.expert_linear(g.swiglu(gate, up), "down", chosen), chosen)
    return g.linear(x + y if late else g.last(x + y), "head")


def weights(width: int, wide: int) -> MadeUpWeights:
    rng = np.random.default_rng(1)
    return MadeUpWeights(
        a=floats(rng, VOCABULARY, width),
        router=floats(rng, EXPERTS, width),
        gate=floats(rng, EXPERTS * wide, width),
        up=floats(rng, EXPERTS * wide, width),
        down=floats(rng, EXPERTS * width, wide),
        head=floats(rng, VOCABULARY, width),
    ).stacked(gate=EXPERTS, up=EXPERTS, down=EXPERTS)


def term(rng: np.random.Generator, rank: int, columns: int, rows: int, dtype: type = np.float32) -> Term:
    shapes = ((EXPERTS, rank, columns), (EXPERTS, rows, rank))
    return Term(*(rng.normal(0, 0.3, shape).astype(dtype) for shape in shapes), scale=1.5)


def results(
    backend: str,
    size: tuple[int, int],
    adapters: Mapping[int, dict[str, Term]],
    entries: list[tuple],
    graph: Callable[[Graph], Value] = build,
) -> list[np.ndarray]:
    """Rows of the reference and of ``backend``: of prompts, and of generated tokens."""
    rows = []
    for name in ("reference", backend):
        base = weights(*size)
        plan = compile_graph(name, graph_of(base, graph), base)
        plan.reserve(3)
        for place, terms in adapters.items():
            plan.put_adapter(place, terms)
        prompts = batch_of([Part([1, 5, 2]), Part([3, 3, 7], 0, (1,)), Part([11], 0, (2,))])
        generated = batch_of([Part([4], 3), Part([9], 3, (1,)), Part([2], 1, (2,))])
        few = [entry for entry in entries if entry[0] < 3]
        rows.append(
            np.concatenate(
                [
                    rows_of(plan, with_adapters(prompts, entries)),
                    rows_of(plan, with_adapters(generated, few)),
                    rows_of(plan, with_adapters(batch_of([Part([5], 4)]), [(0, *entries[0][1:])])),
                    rows_of(plan, prompts),
                ]
            )
        )
        plan.close()
    return rows


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("rank", [1, 8, 17])
@pytest.mark.parametrize("size", SIZES)
def test_sizes_ranks_and_storage(backend: str, size: tuple[int, int], rank: int, dtype: type) -> None:
    rng = np.random.default_rng(rank)
    width, wide = size
    terms = {
        "gate": term(rng, rank, width, wide, dtype),
        "up": term(rng, rank, width, wide, dtype),
        "down": term(rng, rank, wide, width, dtype),
    }
    expected, found = results(backend, size, {2: terms}, [(row, 2, 0.7) for row in range(7)])
    assert_close(found, expected)
    assert np.abs(expected[:3] - expected[-3:]).max() > 0.1


@pytest.mark.parametrize("graph", [build, build_late])
def test_several_adapters_and_rows_without(backend: str, graph: Callable[[Graph], Value]) -> None:
    rng = np.random.default_rng(5)
    width, wide = SIZES[0]
    adapters = {
        # On a GPU the first one that changes experts changes the program.
        3: {"head": Term(*(rng.normal(0, 0.3, s).astype(np.float32) for s in ((2, width), (VOCABULARY, 2))))},
        0: {"down": term(rng, 3, wide, width)},
        1: {"up": term(rng, 5, width, wide), "down": term(rng, 9, wide, width)},
    }
    entries = [(0, 0, 1.0), (0, 1, 0.5), (2, 3, 1.0), (2, 1, -1.0), (5, 0, 2.0), (6, 3, 1.0)]
    expected, found = results(backend, SIZES[0], adapters, entries, graph)
    assert_close(found, expected)
