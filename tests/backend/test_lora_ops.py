"""What adapters add, on each engine, against its NumPy definition: shapes, storage, mixtures, batches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from shimmy.errors import EngineError
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

VOCABULARY = 19
WIDTH, OUT = 40, 23

pytestmark = pytest.mark.parametrize("backend", JUDGED)


def build(g: Graph) -> Value:
    """An embedding and two matrices, the second of which sees only the rows that are wanted."""
    x = g.embed("a")
    return g.linear(g.last(g.linear(x, "w")), "head")


def weights() -> MadeUpWeights:
    rng = np.random.default_rng(1)
    return MadeUpWeights(
        a=floats(rng, VOCABULARY, WIDTH), w=floats(rng, OUT, WIDTH), head=floats(rng, VOCABULARY, OUT)
    )


def term(rng: np.random.Generator, rank: int, columns: int, rows: int, dtype: type = np.float32) -> Term:
    a, b = (rng.normal(0, 0.3, shape).astype(dtype) for shape in ((rank, columns), (rows, rank)))
    return Term(a, b, scale=1.5)


def agree(
    backend: str, adapters: Mapping[int, dict[str, Term]], entries: list[tuple[int, int, float]]
) -> None:
    """Both the reference and ``backend`` run a prompt of seven tokens, three outputs, with these entries."""
    batch = with_adapters(batch_of([Part([1, 5, 2]), Part([3, 3, 7], 0, (1,)), Part([11], 0, (2,))]), entries)
    results = []
    for name in ("reference", backend):
        base = weights()
        plan = compile_graph(name, graph_of(base, build), base)
        plan.reserve(3)
        for place, terms in adapters.items():
            plan.put_adapter(place, terms)
        results.append(rows_of(plan, batch))
        plan.close()
    assert_close(results[1], results[0])
    assert np.abs(results[0]).max() > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("rank", [1, 3, 8, 16, 17, 40])
def test_ranks_and_storage(backend: str, rank: int, dtype: type) -> None:
    rng = np.random.default_rng(rank)
    terms = {"w": term(rng, rank, WIDTH, OUT, dtype), "head": term(rng, rank, OUT, VOCABULARY, dtype)}
    agree(backend, {2: terms}, [(row, 2, 0.7) for row in range(7)])


def test_embeddings(backend: str) -> None:
    rng = np.random.default_rng(3)
    low_rank = Term(*(rng.normal(0, 1, s).astype(np.float32) for s in ((VOCABULARY, 5), (WIDTH, 5))), 0.5)
    whole = Term(rng.normal(0, 1, (VOCABULARY, WIDTH)).astype(np.float32))
    agree(backend, {0: {"a": low_rank}, 1: {"a": whole}}, [(0, 0, 1.0), (4, 1, 2.0)])


def test_whole_matrices_and_offsets(backend: str) -> None:
    rng = np.random.default_rng(4)
    whole = Term(b=rng.normal(0, 1, (OUT, WIDTH)).astype(np.float32))
    offset = Term(offset=rng.normal(0, 1, VOCABULARY).astype(np.float32))
    agree(backend, {0: {"w": whole, "head": offset}}, [(row, 0, 1.0) for row in (2, 5, 6)])


def test_some_rows_have_several_adapters_and_some_none(backend: str) -> None:
    rng = np.random.default_rng(5)
    adapters = {
        place: {"w": term(rng, 4 + place, WIDTH, OUT), "head": term(rng, 2, OUT, VOCABULARY)}
        for place in range(4)
    }
    del adapters[3]["w"]
    agree(backend, adapters, [(0, 0, 1.0), (2, 1, 0.5), (2, 3, -1.0), (5, 0, 1.0), (5, 2, 1.0), (6, 3, 2.0)])


def test_a_row_has_the_same_bits_whatever_is_beside_it(backend: str) -> None:
    rng = np.random.default_rng(6)
    base = weights()
    plan = compile_graph(backend, graph_of(base, build), base)
    plan.reserve(20)
    for place in range(8):
        plan.put_adapter(place, {"w": term(rng, 9, WIDTH, OUT), "head": term(rng, 20, OUT, VOCABULARY)})
    alone = rows_of(plan, with_adapters(batch_of([Part([4])]), [(0, 3, 1.0)]))
    for count in (2, 5, 8):
        parts = [Part([4], 0, (i,)) for i in range(count)]
        batch = with_adapters(batch_of(parts), [(i, 3 if i % 2 else i % 8, 1.0) for i in range(count)])
        assert np.array_equal(rows_of(plan, batch)[1], alone[0])
    without = rows_of(plan, batch_of([Part([4])]))
    beside = with_adapters(batch_of([Part([4]), Part([5], 0, (1,))]), [(1, 0, 1.0)])
    assert np.array_equal(rows_of(plan, beside)[0], without[0])
    plan.close()


def test_replaced_and_forgotten(backend: str) -> None:
    rng = np.random.default_rng(7)
    base = weights()
    plan = compile_graph(backend, graph_of(base, build), base)
    plan.reserve(1)
    batch = with_adapters(batch_of([Part([4])]), [(0, 0, 1.0)])
    first, second = ({"w": term(rng, 3, WIDTH, OUT)} for _ in range(2))
    plan.put_adapter(0, first)
    before = rows_of(plan, batch)
    plan.put_adapter(0, second)
    assert not np.allclose(rows_of(plan, batch), before)
    plan.put_adapter(0, first)
    assert np.array_equal(rows_of(plan, batch), before)
    plan.put_adapter(0, None)
    with pytest.raises(EngineError, match="not loaded"):
        plan.submit(batch, [])
    with pytest.raises(EngineError, match="no place 99"):
        plan.put_adapter(99, first)
    with pytest.raises(EngineError, match="has rank 65, the plan holds at most 64"):
        plan.put_adapter(0, {"w": term(rng, 65, WIDTH, OUT)})
    with pytest.raises(EngineError, match="is for 'v', which the graph has not"):
        plan.put_adapter(0, {"v": term(rng, 3, WIDTH, OUT)})
    plan.close()
