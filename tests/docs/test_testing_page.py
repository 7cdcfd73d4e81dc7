"""docs/testing.md: its classes are ours and what it says of answers is so."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from shimmy import testing
from shimmy.testing.answers import TIES, TOLERANCES, read_answers
from tests.docs.pages import DOCS, page, snippets

PAGE = "testing.md"
CLASSES = set(testing.__all__)
CODE = [(line, code) for line, code in snippets(PAGE, "python") if "Conformance" in code]


@pytest.mark.parametrize(("line", "code"), CODE, ids=lambda value: f"line {value}"[:9])
def test_snippets_are_tests_of_the_kit(line: int, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(DOCS.parent)
    module = ModuleType(f"snippet_at_line_{line}")
    exec(compile(code, f"{PAGE}:{line}", "exec"), vars(module))
    [test] = [each for name, each in vars(module).items() if name.startswith("Test")]
    [kind] = [name for name in CLASSES if issubclass(test, getattr(testing, name))]
    if kind == "QuantConformance":
        test().test_any_bytes_have_the_oracles_values()
    elif kind == "ArchitectureConformance":
        assert test().file(tmp_path).is_file()
        assert read_answers(*test.references)
    else:
        assert test().backend().step_tokens


def test_each_class_has_an_example():
    assert all(f"({name})" in page(PAGE) for name in CLASSES)


def test_the_answers_can_be_read(tmp_path: Path):
    [(_, code)] = snippets(PAGE, "json")
    (tmp_path / "a.json").write_text(code)
    [answer] = read_answers(tmp_path / "a.json")
    assert answer.greedy == [278, 2982, 29892]
    assert answer.logits == {278: 11.25, 263: 8.94}
    assert json.loads(code).keys() == {"prompts", "transformers_f32"}


def test_the_answers_of_a_program_can_be_recorded():
    [code] = [code for _, code in snippets(PAGE, "python") if "torch" in code]
    exec(compile(code, PAGE, "exec"), {})


def test_what_may_differ():
    limits = f"below {TIES['f32']} ({TIES['int8']} in int8)", f"{TOLERANCES['f32']:.1%} of the largest"
    for text in (*limits, f"({TOLERANCES['int8']:.0%} in int8)"):
        assert text.replace("%", " %") in page(PAGE)
