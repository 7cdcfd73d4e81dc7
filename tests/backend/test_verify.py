"""``shimmy verify``: engines that compute rightly pass, every one that does not is found out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shimmy.cli import main
from shimmy.engine.load import limits_for, record_model
from shimmy.engine.plan import FinishedStep, Limits, Plan, Progress
from shimmy.engine.reference import ReferenceBackend
from shimmy.engine.sampling import RowSampling
from shimmy.engine.settings import EngineSettings
from shimmy.gguf.weights import Weights
from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph
from shimmy.graph.experts import top_experts
from shimmy.graph.reference import ReferenceCache, attention
from shimmy_plugins.commands.verify import run as command
from shimmy_plugins.commands.verify.check import Check
from shimmy_plugins.commands.verify.checks import ELEMENTS, verify
from shimmy_plugins.quants import q4_0
from tests.architectures import converted, with_vectors
from tests.backend.harness import F32, PLUGINS, no_progress
from tests.zoo import model_path, reference

ZOO = model_path("llama_spm.q4_0")
Shimmy = Callable[..., tuple[int, str]]


@pytest.fixture
def shimmy(capsys: pytest.CaptureFixture[str]) -> Shimmy:
    """``shimmy("--json")`` -> (exit code, standard output) of ``shimmy verify``."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["verify", str(ZOO), *arguments])
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_the_cpu_engine_passes(shimmy: Shimmy, precision: str):
    code, out = shimmy("--engine-backend", "cpu", "--precision", precision, "--json")
    report = json.loads(out)
    assert (code, report["passed"], report["failed"]) == (0, True, [])
    assert report["engine"]["backend"] == "cpu"
    assert report["engine"]["precision"] == precision
    assert_complete(report["checks"])


def assert_complete(checks: Sequence[dict[str, object]]) -> None:
    """Every tensor, node and layer is compared, in both phases, and enough of it."""
    model = recorded()
    sizes = {name: prod(model.weights.shape(name)) for name in model.weights.names()}
    read = {check["label"]: check["elements"] for check in checks if check["kind"] == "blocks"}
    assert all(read[name] >= min(ELEMENTS, size) for name, size in sizes.items())
    for phase in ("prompt", "generated"):
        found = [check for check in checks if check["phase"] == phase]
        compared = {c["label"]: c["elements"] for c in found if c["kind"] == "weights"}
        assert all(compared[name] >= min(ELEMENTS, size) for name, size in sizes.items())
        ops = [check["label"] for check in found if check["kind"] == "ops"]
        assert ops == [node.label for node in model.graph.nodes]
        layers = [check["label"] for check in found if check["kind"] == "layers"]
        assert layers == ["token_embd", "blk.0", "blk.1", "blk.2", "last+output_norm+output"]
    assert [check["kind"] for check in checks[-2:]] == ["logits", "decode"]


def test_keys_and_values_may_be_rounded(shimmy: Shimmy):
    code, out = shimmy("--engine-backend", "cpu", "--kv-type", "q8_0")
    assert code == 0
    assert out.rstrip().endswith("ok: 230 checks.")
    assert "KV q8_0" in out


def recorded(path: Path = ZOO):
    settings = EngineSettings(precision="f32")
    return record_model(path, path.stem, settings, PLUGINS, no_progress)


def failures(backend: ReferenceBackend, path: Path = ZOO) -> list[Check]:
    model = recorded(path)
    return verify(model, backend, limits_for(model.context, EngineSettings(), backend), no_progress).failed


def kinds(checks: Sequence[Check]) -> set[str]:
    return {check.kind for check in checks}


class WrongWeight(ReferenceBackend):
    """One weight of one tensor is off by less than a code."""

    def __init__(self, row: int, column: int, tensor: str = "blk.1.ffn_down.weight") -> None:
        self.place, self.tensor = (row, column), tensor

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> Plan:
        place, tensor = self.place, self.tensor

        class Off(Weights):
            def __init__(self) -> None:
                pass

            def __getattribute__(self, name: str):
                return object.__getattribute__(self, name) if name == "dequantize" else getattr(weights, name)

            def dequantize(self, name: str, rows: slice | None = None) -> F32:
                values = weights.dequantize(name, rows)
                if name == tensor:
                    values = values.copy()
                    values[place] += 1e-3
                return values

        return super().compile(graph, Off(), limits, progress)


@pytest.mark.parametrize("place", [(0, 0), (255, 0), (0, 511), (255, 511), (100, 511)])
def test_a_wrong_weight_is_found(place: tuple[int, int]):
    failed = failures(WrongWeight(*place))
    assert [(check.label, check.phase) for check in failed if check.kind == "weights"] == [
        ("blk.1.ffn_down.weight", "prompt"),
        ("blk.1.ffn_down.weight", "generated"),
    ]


def test_a_wrong_weight_of_any_expert_is_found():
    """Each of 8 has 256 rows, after each other, and a token sees 2."""
    tensor = "blk.1.ffn_up_exps.weight"
    failed = failures(WrongWeight(5 * 256 + 3, 0, tensor), model_path("qwen3moe.q4_k_m"))
    assert tensor in [check.label for check in failed if check.kind == "weights"]


def test_experts_pass(capsys: pytest.CaptureFixture[str]):
    path = str(model_path("qwen3moe.q4_k_m"))
    assert main(["verify", path, "--engine-backend", "cpu", "--precision", "int8"]) == 0
    assert "expert_linear" in capsys.readouterr().out


def test_a_matrix_of_one_row_may_be_a_vector(tmp_path: Path):
    path = with_vectors(converted("qwen2moe", tmp_path, PLUGINS), tmp_path / "vectors.gguf", PLUGINS)
    assert not failures(ReferenceBackend(), path)


class Rounding(ReferenceBackend):
    """Says that it rounds, and computes some rows by other experts."""

    def __init__(self, rows: slice, precision: str = "int8") -> None:
        self.rows, self.precision = rows, precision

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> Plan:
        attrs = {"rows": self.rows}
        nodes = [
            replace(node, attrs={**node.attrs, **attrs}) if node.op == "top_experts" else node
            for node in graph.nodes
        ]
        wrong = replace(graph.ops["top_experts"], reference=f"{__name__}:other_experts")
        changed = replace(graph, nodes=nodes, ops={**graph.ops, "top_experts": wrong})
        plan = super().compile(changed, weights, limits, progress)
        plan.precision = self.precision
        return plan


def other_experts(logits: F32, *, rows: slice, **attrs: Any) -> F32:
    chosen = top_experts(logits, **attrs)
    if len(logits) > 1:
        chosen[rows, 0, -1] = (chosen[rows, 0, -1] + 1) % logits.shape[1]
    return chosen


@pytest.mark.parametrize(
    ("engine", "found"),
    [
        (Rounding(slice(1)), set()),
        (Rounding(slice(1), "f32"), {"layers", "logits", "decode"}),
        (Rounding(slice(None)), {"layers", "logits", "decode"}),
    ],
)
def test_rounding_may_choose_other_experts_for_some_rows(engine: Rounding, found: set[str]):
    failed = failures(engine, model_path("qwen3moe.q4_k_m"))
    assert {check.kind for check in failed} - {"ops"} == found


class Outlying(ReferenceBackend):
    """Says that it rounds, and its sums in the first of several rows are off by a share."""

    def __init__(self, share: float) -> None:
        self.share = share

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> Plan:
        nodes = [
            replace(node, attrs={**node.attrs, "share": self.share}) if node.op == "add" else node
            for node in graph.nodes
        ]
        wrong = replace(graph.ops["add"], reference=f"{__name__}:inexact_sum")
        changed = replace(graph, nodes=nodes, ops={**graph.ops, "add": wrong})
        plan = super().compile(changed, weights, limits, progress)
        plan.precision = "int8"
        return plan


def inexact_sum(a: F32, b: F32, *, share: float) -> F32:
    total = a + b
    if len(total) > 1:
        total[0] *= 1 + share
    return total


@pytest.mark.parametrize(("share", "found"), [(0.08, set()), (0.8, {"layers"})])
def test_rounding_may_harm_one_row_more_than_others(share: float, found: set[str]):
    failed = failures(Outlying(share))
    assert {check.kind for check in failed} - {"ops"} == found


def answers_on_record(folder: Path, **changes: object) -> str:
    """Those to the shortest prompt, with changes."""
    known = reference("llama_spm")
    [name] = [prompt["id"] for prompt in known["prompts"]][:1]
    answer = known["llamacpp"]["q4_0__dequantised_to_f32"]["prompts"][name]
    content = {"prompts": known["prompts"][:1], "llamacpp": {"prompts": {name: {**answer, **changes}}}}
    path = folder / "answers.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_answers_on_record(shimmy: Shimmy, tmp_path: Path):
    """Right ones pass in any precision; a token that should be another one is found at its place."""
    options = ("--engine-backend", "cpu", "--json")
    for precision in ("f32", "int8"):
        place = f"{answers_on_record(tmp_path)}#llamacpp"
        code, out = shimmy(*options, "--precision", precision, "--references", place)
        found = [check for check in json.loads(out)["checks"] if check["kind"] == "references"]
        assert (code, [(check["group"], check["passed"]) for check in found]) == (
            0,
            [("logits", True), ("tokens", True)],
        )
    greedy = reference("llama_spm")["llamacpp"]["q4_0__dequantised_to_f32"]["prompts"]["short"]["greedy_ids"]
    wrong = answers_on_record(
        tmp_path, greedy_ids=[*greedy[:9], 5, *greedy[10:]], margins=[1.0] * len(greedy)
    )
    code, out = shimmy(*options, "--precision", "f32", "--references", wrong)
    assert (code, json.loads(out)["failed"]) == (1, ["short"])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("missing.json", "cannot be read as JSON"),
        ("answers.json#nowhere", "holds no answers as expected: KeyError('nowhere')"),
        ("two.json", "holds answers in 2 places (here, there), expected one"),
    ],
)
def test_answers_that_are_none(
    place: str, message: str, shimmy: Shimmy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    answers_on_record(tmp_path)
    two = {"prompts": [], "here": {"prompts": {}}, "there": {"prompts": {}}}
    (tmp_path / "two.json").write_text(json.dumps(two))
    assert main(["verify", str(ZOO), "--references", str(tmp_path / place)]) == 2
    assert message in capsys.readouterr().err


def without_window(q: F32, k: F32, v: F32, *, batch: Batch, cache: ReferenceCache, **attrs: Any) -> F32:
    return attention(q, k, v, batch=batch, cache=cache, **{**attrs, "window": None})


def test_a_window_that_is_not_heeded_is_found():
    """The first token that is outside is the 65th."""
    failed = failures(WrongOp("attention", without_window), model_path("gemma2.q4_k_m"))
    found = [(check.kind, check.label, check.phase) for check in failed]
    windowed = ("blk.0.attention", "blk.2.attention")
    assert found == [("far", label, phase) for label in windowed for phase in ("prompt", "generated")]


def position_before(*, weight: F32, batch: Batch) -> F32:
    return weight[np.minimum(batch.positions, len(weight) - 2)]


def test_a_wrong_last_position_is_found():
    failed = failures(WrongOp("position_embed", position_before), model_path("gpt2.q4_k_m"))
    assert [(check.kind, check.label, check.phase) for check in failed] == [
        ("far", "position_embd", "generated")
    ]


def test_a_type_that_is_read_wrongly_is_found(monkeypatch: pytest.MonkeyPatch):
    """By the plugin, so that engines and definitions agree."""
    monkeypatch.setattr(q4_0, "unpack", off_by_one)
    failed = failures(ReferenceBackend())
    assert kinds(failed) == {"blocks"}
    assert {check.group for check in failed} == {"Q4_0"}
    assert len(failed) == 22


RIGHT = q4_0.unpack


def off_by_one(blocks: Any) -> Any:
    """The zero of codes is 7, not 8."""
    return replace(RIGHT(blocks), offsets=7)


def wrong_swiglu(gate: F32, up: F32) -> F32:
    return (gate / (np.float32(1) + np.exp(-gate)) * up * np.float32(1.0001)).astype(np.float32)


class WrongOp(ReferenceBackend):
    """An op is something else."""

    def __init__(self, name: str, function: Callable[..., F32]) -> None:
        self.name, self.definition = name, f"{__name__}:{function.__name__}"

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> Plan:
        wrong = replace(graph.ops[self.name], reference=self.definition)
        changed = replace(graph, ops={**graph.ops, self.name: wrong})
        return super().compile(changed, weights, limits, progress)


def test_a_wrong_op_is_found():
    failed = failures(WrongOp("swiglu", wrong_swiglu))
    assert {check.label for check in failed if check.kind == "ops"} == {f"blk.{i}.swiglu" for i in range(3)}
    assert {check.label for check in failed if check.kind == "layers"} == {f"blk.{i}" for i in range(3)}


class WrongRows(ReferenceBackend):
    """Logits of generated rows are off, or no numbers."""

    def __init__(self, change: float) -> None:
        self.change = change

    def compile(self, graph: Graph, weights: Weights, limits: Limits, progress: Progress) -> Plan:
        plan = super().compile(graph, weights, limits, progress)
        right = plan.submit

        def submit(batch: Batch, sampling: Sequence[RowSampling]) -> FinishedStep:
            logits = right(batch, sampling).logits()
            return FinishedStep(logits * np.float32(self.change) if batch.generated else logits, [])

        plan.submit = submit
        return plan


@pytest.mark.parametrize("change", [1.001, np.nan])
def test_generated_rows_that_differ_are_found(change: float):
    [failed] = failures(WrongRows(change))
    assert (failed.kind, failed.label) == ("decode", "8 tokens")


def test_what_failed_is_told(shimmy: Shimmy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "choose_backend", lambda *_: ("wrong", "", WrongRows(np.nan)))
    code, out = shimmy()
    assert code == 1
    assert "decode = prompt  8 tokens  generated  inf" in out
    assert out.rstrip().endswith("FAILED: 1 of 230 checks.")
    code, out = shimmy("--json")
    report = json.loads(out)
    assert (code, report["passed"], report["failed"]) == (1, False, ["8 tokens"])
    assert report["checks"][-1]["error"] is None
