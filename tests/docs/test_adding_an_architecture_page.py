"""docs/adding_an_architecture.md shows the example as it is, and what its tests say when it is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType

import pytest

from shimmy.errors import GraphError
from shimmy.plugins import load_plugins
from shimmy.testing import ArchitectureConformance
from shimmy.testing.engines import JUDGE
from shimmy.testing.plans import LIMITS, no_progress, read_model
from tests.docs.pages import DOCS, page, snippets

PAGE = "adding_an_architecture.md"
EXAMPLE = DOCS.parent / "examples" / "shimmy-arch-olmo2"
MODULE = EXAMPLE / "shimmy_arch_olmo2.py"
TESTS = EXAMPLE / "tests"


@pytest.mark.parametrize(("line", "code"), snippets(PAGE, "python"), ids=lambda value: f"line {value}"[:9])
def test_the_code_is_the_examples(line: int, code: str):
    assert any(code in path.read_text("utf-8") for path in (MODULE, TESTS / "test_conformance.py"))


def test_the_dump_is_the_files():
    command = [sys.executable, "-m", "gguf.scripts.gguf_dump", str(TESTS / "olmo2.gguf")]
    dump = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    shown = page(PAGE).partition("$ gguf-dump tests/olmo2.gguf\n")[2].partition("```")[0]
    lines = [line for line in shown.splitlines() if line != "…"]
    assert len(lines) > 20
    assert [line for line in lines if line not in dump] == []


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch):
    """``conformance({"right": "wrong"})``: the tests of the example with something wrong in its module."""

    def make(changes: Mapping[str, str]) -> ArchitectureConformance:
        source = MODULE.read_text("utf-8")
        for right, wrong in changes.items():
            assert right in source
            source = source.replace(right, wrong)
        module = ModuleType(MODULE.stem)
        monkeypatch.setitem(sys.modules, MODULE.stem, module)
        exec(compile(source, MODULE, "exec"), vars(module))
        plugins = load_plugins(extra=[module])

        class Tests(ArchitectureConformance):
            references = TESTS / "olmo2.json", "transformers_f32"

            def plugins(self):
                return plugins

        return Tests()

    return make


def said(text: str) -> bool:
    return any(text in shown for _, shown in snippets(PAGE, "text"))


def test_a_norm_that_is_not_there(conformance):
    before = {"self.attention(g, x, p, i)": 'self.attention(g, g.rms_norm(x, "attn_norm", eps=eps), p, i)'}
    with pytest.raises(GraphError) as caught:
        read_model(TESTS / "olmo2.gguf", conformance(before).plugins())
    assert said(str(caught.value))


def test_norms_that_are_left_out(conformance):
    wrong = {
        f'g.rms_norm(g.linear(x, "attn_{name}"), "attn_{name}_norm", eps=eps)': f'g.linear(x, "attn_{name}")'
        for name in "qk"
    }
    with pytest.raises(GraphError) as caught:
        read_model(TESTS / "olmo2.gguf", conformance(wrong).plugins())
    assert said(str(caught.value))


def test_pairs_of_neighbours(conformance):
    tests = conformance({'style="half"': 'style="interleaved"'})
    model = read_model(TESTS / "olmo2.gguf", tests.plugins())
    plan = JUDGE.compile(model.graph, model.weights, LIMITS, no_progress)
    with pytest.raises(AssertionError) as caught:
        tests.test_answers_are_those_of_another_program(model, {"definitions": plan})
    assert said(str(caught.value))
