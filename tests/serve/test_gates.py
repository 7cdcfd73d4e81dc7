"""``just gates``: what it prints of a model that passes, and of one that does not; its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.zoo import FOLDER, model_path

SCRIPT = Path(__file__).parents[2] / ".ci" / "gates.py"
ANSWERS = f"{FOLDER / 'ref' / 'llama_spm.json'}#llamacpp.q4_0__dequantised_to_f32"
GATES = ["dequantise", "op", "graph", "decode", "references", "speed"]


def gates(*arguments: str) -> tuple[int, dict[str, str], str]:
    """Exit code, what became of each gate, and all that was printed."""
    command = [sys.executable, str(SCRIPT), *arguments, "--engine-backend", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines() if line.startswith("   ")]
    assert [gate for _, gate, _ in rows] == GATES
    return result.returncode, {gate: outcome for outcome, gate, _ in rows}, result.stdout


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
