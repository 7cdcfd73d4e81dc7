"""A row's bits never depend on the batch it is in, on the CPU and by the definitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from shimmy.engine.plan import Limits, Plan
from tests.backend.harness import F32, LIMITS, Part, batch_of, compile_model, rows_of
from tests.zoo import FILES, model_path

SEQUENCES = {"a": 70, "b": 33, "c": 9}
BLOCKS = {"a": [6, 1, 4], "b": [0, 5], "c": [3]}


@pytest.fixture(params=[("f32", "f32"), ("int8", "f32"), ("int8", "q8_0")], ids="-kv-".join)
def limits(request: pytest.FixtureRequest) -> Limits:
    precision, kv_type = request.param
    return replace(LIMITS, precision=precision, kv_type=kv_type)


#: Each kind of op is in one of them, and of what weights are stored as.
MODELS = [
    *(name for name in ("llama_spm.iq4_xs", "llama_spm.q2_k") if name in FILES),
    *("llama_spm.q4_k_m", "llama_spm.q4_0", "llama_spm.f16"),
    *(f"{name}.q4_k_m" for name in ("gemma2", "gpt2", "phi2", "phi3", "qwen3moe")),
]


@pytest.fixture(params=MODELS)
def plan(request: pytest.FixtureRequest, limits: Limits) -> Iterator[Plan]:
    plan = compile_model("cpu", model_path(request.param), limits)
    plan.reserve(8)
    yield plan
    plan.close()


def tokens(name: str) -> list[int]:
    return list(np.random.default_rng(ord(name)).integers(3, 2000, SEQUENCES[name]))


def one_by_one(plan: Plan, name: str) -> F32:
    """(tokens, vocabulary): logits after each token, each computed in a step of its own."""
    steps = [Part([token], i, BLOCKS[name]) for i, token in enumerate(tokens(name))]
    return np.concatenate([rows_of(plan, batch_of([step])) for step in steps])


def test_alone_or_in_chunks(plan: Plan) -> None:
    expected = one_by_one(plan, "a")
    for chunk in (2, 3, 4, 7, 8, 9, 12, 16, 70):
        for start in range(0, 70, chunk):
            part = Part(tokens("a")[start : start + chunk], start, BLOCKS["a"])
            found = rows_of(plan, batch_of([part]))[0]
            np.testing.assert_array_equal(found, expected[start + len(part.tokens) - 1])


def test_alone_or_with_others(plan: Plan) -> None:
    """Decoding sequences, prompt chunks and each order of them in one step."""
    expected = {name: one_by_one(plan, name) for name in SEQUENCES}
    done = dict.fromkeys(SEQUENCES, 0)
    rng = np.random.default_rng(0)
    while any(done[name] < SEQUENCES[name] for name in SEQUENCES):
        parts = {}
        for name in rng.permutation(list(SEQUENCES)):
            count = int(rng.choice([0, 1, 1, 2, 5, 11]))
            ids = tokens(name)[done[name] : done[name] + count]
            if ids:
                parts[name] = Part(ids, done[name], BLOCKS[name])
                done[name] += len(ids)
        if parts:
            for name, row in zip(parts, rows_of(plan, batch_of(parts.values())), strict=True):
                np.testing.assert_array_equal(row, expected[name][done[name] - 1])


def test_alone_or_beside_seven(plan: Plan) -> None:
    """A step of eight sequences that are all at the same place."""
    expected = one_by_one(plan, "c")
    for place in range(8):
        others = [Part(list(range(9 + i, 18 + i)), 0, [i]) for i in range(7)]
        parts = [*others[:place], Part(tokens("c"), 0, [7]), *others[place:]]
        np.testing.assert_array_equal(rows_of(plan, batch_of(parts))[place], expected[-1])


@pytest.mark.parametrize("model", [name for name in MODELS if name.endswith("q4_k_m")])
def test_so_it_is_with_the_definitions(model: str) -> None:
    plan = compile_model("reference", model_path(model))
    whole = rows_of(plan, batch_of([Part(tokens("b"), 0, BLOCKS["b"])], every_row=True))
    np.testing.assert_array_equal(one_by_one(plan, "b"), whole)
    plan.close()


def test_any_number_of_threads(limits: Limits) -> None:
    found = []
    for threads in (1, 2, 3, 9):
        plan = compile_model("cpu", model_path("llama_spm.q4_k_m"), replace(limits, threads=threads))
        plan.reserve(8)
        found.append(one_by_one(plan, "b"))
        plan.close()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
