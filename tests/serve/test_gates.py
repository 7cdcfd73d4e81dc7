"""``just gates``: what it prints of a model that passes, and of one that does not; its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shimmy.plugins import load_plugins
from shimmy_plugins.commands.bench.random_model import write_random_model
from shimmy_plugins.commands.bench.shapes import Shape
from tests.zoo import FOLDER, model_path

SCRIPT = Path(__file__).parents[2] / ".ci" / "gates.py"
ANSWERS = f"{FOLDER / 'ref' / 'llama_spm.json'}#llamacpp.q4_0__dequantised_to_f32"
GATES = ["dequantise", "op", "graph", "decode", "references", "speed"]


#: An engine, or a type, with a fault: of an op, of ops that follow each other, of generated rows, of blocks.
FAULTY = """
import os
from dataclasses import replace

import numpy as np

from shimmy import hookimpl
from shimmy.engine.plan import FinishedStep
from shimmy.engine.reference import ReferenceBackend
from shimmy.specs import BackendSpec
from shimmy_plugins.quants import q4_0

shimmy_api = 1
FAULT = os.environ["FAULT"]
right = q4_0.unpack
if FAULT == "dequantise":
    q4_0.unpack = lambda block: replace(right(block), offsets=7)


def sum_off(x, y):
    return ((x + y) * 1.01).astype(np.float32)


class Faulty(ReferenceBackend):
    def compile(self, graph, weights, limits, progress):
        following = any(graph.nodes[i].op == "linear" for n in graph.nodes if n.op == "add" for i in n.inputs)
        if FAULT == "op" or (FAULT == "graph" and following):
            off = replace(graph.ops["add"], reference=f"{__name__}:sum_off")
            graph = replace(graph, ops={**graph.ops, "add": off})
        plan = super().compile(graph, weights, limits, progress)
        submit = plan.submit

        def generated_off(batch, sampling):
            step = submit(batch, sampling)
            return FinishedStep(step.logits() * 1.01 if batch.generated else step.logits(), step.chosen())

        if FAULT == "decode":
            plan.submit = generated_off
        return plan


@hookimpl
def register_backends(register):
    register(BackendSpec("faulty", -1, lambda: None, lambda _plugins: Faulty()))
"""


def gates(*arguments: str, engine: str = "cpu", **variables: str) -> tuple[int, dict[str, str], str]:
    """Exit code, what became of each gate, and all that was printed."""
    command = [sys.executable, str(SCRIPT), *arguments, "--engine-backend", engine]
    environment = {**os.environ, **variables}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines() if line.startswith("   ")]
    assert [gate for _, gate, _ in rows] == GATES
    return result.returncode, {gate: outcome for outcome, gate, _ in rows}, result.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny one, of Q4_0."""
    path = tmp_path_factory.mktemp("gates") / "tiny.gguf"
    shape = Shape("tiny", 2, 64, 96, 4, 2, 300, 512, 1e4, tied=False)
    write_random_model(path, shape, "Q4_0", load_plugins().quant_types)
    return str(path)


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        ("none", set()),
        ("dequantise", {"dequantise"}),
        ("op", {"op", "graph"}),
        ("graph", {"graph"}),
        ("decode", {"decode"}),
    ],
)
def test_each_gate_finds_its_fault(fault: str, failing: set[str], model: str, tmp_path: Path):
    information = tmp_path / "faulty-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[shimmy]\nfaulty = faulty\n")
    (tmp_path / "faulty.py").write_text(FAULTY)
    code, outcomes, text = gates(model, engine="faulty", FAULT=fault, PYTHONPATH=str(tmp_path))
    assert {gate for gate, outcome in outcomes.items() if outcome == "FAILED"} == failing, text
    assert code == bool(failing)


@pytest.mark.parametrize(("rate", "outcome"), [(1.0, "ok"), (1e9, "FAILED")])
def test_the_gate_of_speed(rate: float, outcome: str, model: str, tmp_path: Path):
    baseline = tmp_path / "baseline.json"
    rows = [{"test": test, "tokens": 16, "batch": 1, "depth": 0} for test in ("prefill", "decode")]
    results = [{**row, "tokens_per_second": {"median": rate}} for row in rows]
    baseline.write_text(json.dumps({"results": results}))
    few = "--prompt-tokens 16 --generate 16 --repetitions 2 --max-foreign 100"
    code, outcomes, text = gates(model, "--baseline", str(baseline), f"--bench={few}")
    assert outcomes["speed"] == outcome, text
    assert code == (outcome == "FAILED")


def test_a_model_that_passes():
    code, outcomes, text = gates(str(model_path("llama_spm.q4_0")), "--references", ANSWERS)
    assert (code, outcomes) == (0, {**dict.fromkeys(GATES[:5], "ok"), "speed": "-"}), text


def test_the_worst_decides(tmp_path: Path):
    """Answers to another model, and a baseline that has nothing to compare with."""
    answers, baseline = tmp_path / "answers.json", tmp_path / "baseline.json"
    content = json.loads((FOLDER / "ref" / "llama_spm.json").read_text())
    content["transformers_f32"]["prompts"] = {"short": {"greedy_ids": [7, 7]}}
    answers.write_text(json.dumps(content))
    baseline.write_text('{"results": []}')
    model = str(model_path("llama_spm.q4_0"))
    code, outcomes, text = gates(model, "--references", str(answers), "--baseline", str(baseline))
    assert code == 2
    assert {gate for gate, outcome in outcomes.items() if outcome == "FAILED"} == {"references", "speed"}
    assert "at short" in text
    assert "has no row for prefill 512" in text
