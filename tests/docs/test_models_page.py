"""docs/models.md has every architecture that comes with shimmy; its figures are within what is promised."""

from __future__ import annotations

import re

import pytest

from shimmy.plugins import Plugins
from tests import zoo
from tests.docs.pages import page

PAGE = "models.md"
#: Of the engine's perplexity to that of the definitions.
MARGIN = {"f32": 0.001, "int8": 0.01}


def table(header: str) -> list[list[str]]:
    """Rows of the table that begins with these headers."""
    text = page(PAGE).partition(f"| {header} |")[2]
    rows = text.partition("\n\n")[0].splitlines()[2:]
    assert len(rows) > 20
    return [row.strip("| ").split(" | ") for row in rows]


DEFINITIONS = table("Architecture | Model | Types | Tokens | Logits | Perplexity")
ENGINES = table("Architecture | Model | Engine | Logit | KL | Agreement | Ratio")


@pytest.mark.parametrize("engine", ["cpu f32", "wgpu f32"])
def test_every_architecture_is_there(engine: str, plugins: Plugins):
    built_in = {name for spec in plugins.architectures for name in spec.names}
    assert built_in <= {row[0] for row in DEFINITIONS}
    assert built_in <= {row[0] for row in ENGINES if row[2] == engine}


def test_every_model_of_the_fixtures_is_there():
    assert set(zoo.FILES) <= {row[1] for row in DEFINITIONS}
    assert set(zoo.FILES) <= {row[1] for row in ENGINES}


@pytest.mark.parametrize("row", DEFINITIONS, ids=lambda row: row[1])
def test_the_definitions_are_those_of_other_programs(row: list[str]):
    _, name, _, tokens, logits, _ = row
    if tokens == "-":
        assert name == "llama_spm.bf16"  # which llama.cpp computes in bfloat16
        return
    agreed, count = map(int, re.findall(r"\d+", tokens))
    # A tie may go either way.
    assert agreed >= 0.99 * count
    assert float(logits) <= 1e-3


@pytest.mark.parametrize("row", ENGINES, ids=lambda row: f"{row[1]} {row[2]}")
def test_engines_are_near_the_definitions(row: list[str]):
    *_, engine, _, divergence, _, ratio = row
    precision = engine.split()[1]
    assert float(ratio) == pytest.approx(1, abs=MARGIN[precision])
    assert float(divergence) < {"f32": 1e-8, "int8": 5e-3}[precision]
