"""Contexts beyond the trained one: answers equal to those of transformers with the same YaRN."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shimmy.engine.context import choose_context
from shimmy.engine.load import load_engine, op_table, read_architecture
from shimmy.engine.plan import Plan
from shimmy.engine.protocol import Ready, Sampling, Submit
from shimmy.engine.settings import EngineSettings
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import record
from tests.backend.harness import BACKENDS, LIMITS, PLUGINS, backend_named, generate_greedy, no_progress
from tests.zoo import FOLDER, model_path

RECORDED = json.loads((FOLDER.parent / "rope" / "generations.json").read_text("utf-8"))
MODEL = model_path(f"{RECORDED['model']}.f16")
#: The NumPy definition is slow: it runs the shorter prompt, and a few tokens of its answer.
REFERENCE_TOKENS = 4
CASES = [
    pytest.param(backend, answer, id=f"{backend}-yarn-{answer['factor']:g}")
    for backend in BACKENDS
    for answer in RECORDED["answers"][: 1 if backend == "reference" else None]
]
#: The two best logits of a step may lie so close that another order of additions swaps them.
TIE = 0.001


def plan_of(backend: str, max_ctx: int) -> Plan:
    file = open_gguf(MODEL)
    weights = Weights(file, PLUGINS.quant_types)
    context = choose_context(EngineSettings(max_ctx=max_ctx), 1024, file.metadata, "llama", weights)
    params, architecture = read_architecture("llama", file, PLUGINS)
    graph = record(architecture, params, weights, op_table(PLUGINS), context.scaling)
    limits = replace(LIMITS, max_ctx=max_ctx)
    return backend_named(backend).compile(graph, weights, limits, no_progress)


@pytest.mark.parametrize(("backend", "answer"), CASES)
def test_equal_to_transformers(backend: str, answer: dict[str, Any]) -> None:
    ids = RECORDED["prompt_ids"][: answer["prompt_tokens"]]
    expected = answer["greedy_ids"][: REFERENCE_TOKENS if backend == "reference" else None]
    assert min(answer["margins"]) > TIE
    plan = plan_of(backend, int(1024 * answer["factor"]))
    found, logits = generate_greedy(plan, ids, len(expected))
    plan.close()
    assert found == expected
    top, values = (np.array(column) for column in zip(*answer["top20"], strict=True))
    np.testing.assert_allclose(logits[top.astype(int)], values, rtol=0, atol=1e-3)


def answer_of(settings: EngineSettings, ids: list[int], count: int) -> tuple[Ready, list[int]]:
    """The whole way: settings, loading, scheduling, sampling."""
    loaded = load_engine(MODEL, "tiny", settings, PLUGINS, no_progress)
    engine, tokens = loaded.engine, []
    engine.submit(Submit(1, ids, count, Sampling(temperature=0.0)))
    while not engine.idle:
        tokens += [event.token for event in engine.step() if event.token is not None]
    engine.close()
    return loaded.ready, tokens


@pytest.mark.parametrize("settings", [{"max_ctx": 2048}, {"rope_scale": 2.0}])
def test_an_engine_with_a_stretched_context(settings: dict[str, Any]) -> None:
    answer = RECORDED["answers"][0]
    ids = RECORDED["prompt_ids"][: answer["prompt_tokens"]]
    ready, tokens = answer_of(EngineSettings(backend="cpu", precision="f32", **settings), ids, 8)
    assert (ready.context, ready.native_context) == (2048, 1024)
    assert (ready.rope_kind, ready.rope_factor) == ("yarn", 2.0)
    assert tokens == answer["greedy_ids"][:8]
