"""docs/models.md has every architecture that comes with shimmy; its figures are within what is promised."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shimmy.plugins import Plugins
from tests import zoo
from tests.docs.pages import page

PAGE = "models.md"
SCRIPT = Path(__file__).parents[2] / ".ci" / "models.py"
#: Of the engine's perplexity to that of the definitions.
MARGIN = {"f32": 0.001, "int8": 0.01}


def table(text: str, headers: str) -> list[list[str]]:
    """Rows of the table that begins with these headers."""
    rows = text.partition(f"| {headers} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [row.strip("| ").split(" | ") for row in rows]


def definitions(text: str) -> list[list[str]]:
    return table(text, "Architecture | Model | Types | Tokens | Logits | Perplexity")


def engines(text: str) -> list[list[str]]:
    return table(text, "Architecture | Model | Engine | Logit | KL | Agreement | Ratio")


DEFINITIONS, ENGINES = definitions(page(PAGE)), engines(page(PAGE))


@pytest.mark.parametrize("engine", ["cpu f32", "wgpu f32"])
def test_every_architecture_is_there(engine: str, plugins: Plugins):
    built_in = {name for spec in plugins.architectures for name in spec.names}
    assert built_in <= {row[0] for row in DEFINITIONS}
    assert built_in <= {row[0] for row in ENGINES if row[2] == engine}


def test_every_type_is_there(plugins: Plugins):
    found = {kind for row in DEFINITIONS for kind in row[2].split(", ")}
    assert {spec.name for spec in plugins.quant_types} == found


@pytest.mark.parametrize("engine", ["cpu", "wgpu"])
def test_every_model_of_the_fixtures_is_there(engine: str):
    assert set(zoo.FILES) <= {row[1] for row in DEFINITIONS}
    assert set(zoo.FILES) <= {row[1] for row in ENGINES if row[2].startswith(engine)}


@pytest.mark.parametrize("row", DEFINITIONS, ids=lambda row: row[1])
def test_the_definitions_are_those_of_other_programs(row: list[str]):
    _, name, _, tokens, logits, *_ = row
    if tokens == "-":
        # llama.cpp computes the former in bfloat16; the latter are of types that it is not asked about.
        assert name == "llama_spm.bf16" or name.startswith("tiny random.")
        return
    agreed, count = map(int, re.findall(r"\d+", tokens))
    # A tie may go either way.
    assert agreed >= 0.99 * count
    assert float(logits) <= 1e-3


@pytest.mark.parametrize("row", ENGINES, ids=lambda row: f"{row[1]} {row[2]} {row[-2]}")
def test_engines_are_near_the_definitions(row: list[str]):
    _, _, engine, _, divergence, _, ratio, *_ = row
    precision = engine.split()[1]
    assert float(ratio) == pytest.approx(1, abs=MARGIN[precision])
    assert float(divergence) < {"f32": 1e-8, "int8": 5e-3}[precision]


def run(*arguments: object) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_page_is_made_of_the_figures_of_several_runs(tmp_path: Path):
    """Each row says on what, and of which commit; a row that is measured again takes the other's place."""
    first, again, other = (tmp_path / name for name in ("first.json", "again.json", "other.json"))
    run("measure", first, "--models", "tiny gpt2", "--commit", "one")
    figures = json.loads(first.read_text())
    (definition,), (engine,) = figures["definitions"], figures["engines"]
    assert definition["agreed"] == definition["tokens"] > 0
    assert engine["divergence"] < 1e-8
    for path, changes in ((again, {"commit": "two"}), (other, {"on": "another"})):
        path.write_text(json.dumps(figures | {"definitions": [], "engines": [engine | changes]}))
    text = run("page", first, again, other)
    assert [row[1:4] + row[-1:] for row in definitions(text)] == [["tiny gpt2.f16", "F16", "16 of 16", "one"]]
    rows = [["tiny gpt2.f16", "cpu f32", engine["on"], "two"], ["tiny gpt2.f16", "cpu f32", "another", "one"]]
    assert sorted([*row[1:3], *row[-2:]] for row in engines(text)) == sorted(rows)
    assert "models.py measure first.json --models 'tiny gpt2' --commit one\n" in text


def test_a_model_that_cannot_be_measured_does_not_hide_the_others(tmp_path: Path):
    command = [sys.executable, str(SCRIPT), "measure", str(tmp_path / "x.json"), "--models", "tiny gpt2"]
    result = subprocess.run([*command, "--engine", "none", "--commit", "one"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "FAILED gpt2.f16.gguf: RegistryError" in result.stderr
    assert json.loads((tmp_path / "x.json").read_text())["engines"] == []
