"""Tiny models of every architecture, oddly shaped, of folders: what transformers and PEFT compute in F32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shimmy.engine.load import op_table
from shimmy.engine.plan import Limits, Plan
from shimmy.graph.batch import Batch
from shimmy.huggingface.converted import Converter
from tests import architectures
from tests.backend.harness import (
    BACKENDS,
    LIMITS,
    PLUGINS,
    as_it_is,
    compile_model,
    generate_greedy,
    no_progress,
)
from tests.lora import all_rows, fitted

#: What comes with shimmy; the example's has a test of its own.
NAMES = [name for name in architectures.NAMES if name != "olmo2"]
#: The two best logits may lie so close that another order of additions swaps them.
TIE = 0.002


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_and_logits_are_those_of_transformers(name: str, backend: str, tmp_path: Path) -> None:
    path = converted(name, tmp_path)
    for answer in architectures.recorded(name)["generations"]:
        agree(compile_model(backend, path, limits_for(answer)), answer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_adapters_of_all_that_peft_can_adapt(name: str, backend: str, tmp_path: Path) -> None:
    path = converted(name, tmp_path)
    terms = fitted(architectures.adapter(name, tmp_path), path)
    for answer in architectures.recorded(name)["adapted"]:
        plan = compile_model(backend, path, limits_for(answer))
        plan.put_adapter(1, terms)
        agree(plan, answer, partial(all_rows, place=1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_matrix_of_one_row_may_be_a_vector(backend: str, tmp_path: Path) -> None:
    path = converted("qwen2moe", tmp_path)
    target = architectures.with_vectors(path, tmp_path / "vectors.gguf", PLUGINS)
    answer = architectures.recorded("qwen2moe")["generations"][0]
    agree(compile_model(backend, target, limits_for(answer)), answer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "qwen3moe"])
def test_queries_keys_and_values_may_be_of_one_matrix(name: str, backend: str, tmp_path: Path) -> None:
    path = architectures.with_one_matrix(converted(name, tmp_path), tmp_path / "fused.gguf", PLUGINS)
    answer = architectures.recorded(name)["generations"][0]
    agree(compile_model(backend, path, limits_for(answer)), answer)


def converted(name: str, place: Path) -> Path:
    """The GGUF file of a model's folder."""
    folder = architectures.folder(name, place)
    return Converter(PLUGINS, op_table(PLUGINS), "f16", place / "cache").file_of(folder, no_progress)


def limits_for(answer: Mapping[str, Any]) -> Limits:
    # LongRoPE's frequencies follow the context, in transformers the tokens so far.
    return replace(LIMITS, max_ctx=32 if len(answer["prompt"]) < 16 else 128)


def agree(plan: Plan, answer: Mapping[str, Any], change: Callable[[Batch], Batch] = as_it_is) -> None:
    """The plan, which is closed then, gives an answer's tokens and logits."""
    expected, margins = answer["ids"], answer["margins"]
    found, logits = generate_greedy(plan, answer["prompt"], len(expected), change)
    plan.close()
    for at, (token, wanted, margin) in enumerate(zip(found, expected, margins, strict=True)):
        if token != wanted:
            assert margin < TIE, f"token {at} is {token}, not {wanted}"
            break
    top, values = answer["first"]["ids"], answer["first"]["logits"]
    np.testing.assert_allclose(logits[top], values, rtol=0, atol=1e-4 * np.abs(values).max())
