"""``shimmy probe``: what it finds out, and how it says that a model does not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import zoo


def test_the_report_as_json(run, model):
    code, out, err = run("probe", model, "--max-ctx", "2048", "--kv-memory", "12MiB", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    path = zoo.model_path("llama_spm.q4_0")
    assert report["model"] | {"bytes_by_type": None} == {
        "name": model,
        "path": str(path),
        "architecture": "llama",
        "parameters": 2819840,
        "size_bytes": path.stat().st_size,
        "bytes_by_type": None,
    }
    types = report["model"]["bytes_by_type"]
    assert list(types) == ["Q4_0", "Q6_K", "F32"]
    assert 0.9 * path.stat().st_size < sum(types.values()) < path.stat().st_size
    assert report["context"] == {"native": 1024, "effective": 2048, "rope": "yarn", "rope_factor": 2.0}
    memory = report["memory"]
    assert memory["kv_budget_bytes"] == 12 * 2**20
    assert memory["kv_budget_tokens"] == 12 * 2**20 // memory["kv_bytes_per_token"]
    assert report["template"] == {"name": "own", "reason": "the model file carries it."}
    assert report["tokenizer"]["kind"] == "llama"
    assert report["tokenizer"]["special"] == {
        "bos": {"id": 1, "text": "<s>"},
        "eos": {"id": 2, "text": "</s>"},
        "stop": [{"id": 2, "text": "</s>"}],
    }
    assert set(report["engine"]) == {"backend", "reason", "precision", "description", "fallbacks"}
    assert report["trial"]["tokens"] == 8
    assert report["load_seconds"] > 0
    assert report["load_phases"].keys() >= {"kernels", "weights"}
    assert report["plugins"][:3] == [
        "source-directories (shimmy-llm)",
        "arch-llama (shimmy-llm)",
        "quant-q4-0 (shimmy-llm)",
    ]


def test_the_report_for_people(run, model):
    code, out, err = run("probe", "--max-ctx", "2048", "--engine-backend", "reference")
    assert (code, err) == (0, "")
    first, blank, *lines = out.splitlines()
    assert (first, blank) == (f"ok: loaded {model}", "")
    facts = {line[:10].strip(): line[10:].strip() for line in lines if not line.startswith(" ")}
    assert facts["model"] == "llama, 2.82M parameters"
    assert facts["types"].startswith("Q4_0 74.7%, Q6_K 24.9%")
    assert facts["context"] == "2048 tokens (native 1024, yarn \N{MULTIPLICATION SIGN}2)"
    assert facts["engine"].startswith("reference, f32")
    assert facts["engine"].endswith("(asked for)")
    assert "bos 1 '<s>'; eos 2 '</s>'; answers end at 2 '</s>'" in out
    assert facts.keys() >= {"weights", "KV cache", "template", "tokenizer", "fallbacks", "plugins", "trial"}


@pytest.mark.usefixtures("base_model")
def test_a_model_without_a_template_is_told_apart(run):
    assert "\ntemplate   none: its file carries none" in run("probe")[1]


def test_an_unknown_model_is_exit_code_1(run, model):
    code, out, err = run("probe", "llama_spn")
    assert (code, out) == (1, "")
    assert err == "error: there is no model 'llama_spn'.\nhint: Did you mean 'llama_spm'?\n"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_does_not_fit_is_exit_code_2(run, form):
    code, out, err = run("probe", "--max-ctx", "100000", "--kv-memory", "1MiB", *form)
    assert (code, out) == (2, "")
    assert err.startswith("probe failed: a context of 100000 needs ")
    assert "\nhint: " in err


def test_a_damaged_file_is_exit_code_2(run, tmp_path):
    file = tmp_path / "cut.gguf"
    file.write_bytes(zoo.model_path("llama_spm.q4_0").read_bytes()[:300_000])
    code, out, err = run("probe", "--base-gguf", str(file))
    assert (code, out) == (2, "")
    assert err.startswith("probe failed: model 'cut' cannot be used: ")


def test_a_plugin_that_breaks_is_exit_code_2(run, model, install_plugin):
    install_plugin(
        "broken",
        """
        from shimmy import hookimpl
        from shimmy.specs import BackendSpec

        class Backend:
            step_tokens = 1

            def compile(self, graph, weights, limits, progress):
                raise ValueError("out of cheese")

        @hookimpl
        def register_backends(register):
            register(BackendSpec("cheese", 1000, lambda: None, lambda plugins: Backend()))
        """,
    )
    code, out, err = run("probe")
    assert (code, out, err) == (2, "", "probe failed: ValueError: out of cheese\n")


def test_wrong_settings_are_no_failure_of_the_model(run):
    code, _, err = run("probe", "--base-gguf", "gone.gguf", "--max-ctx", "5")
    assert code == 2
    assert err.startswith("error: max_ctx is '5'")


def test_a_missing_file_is_named(run):
    code, _, err = run("probe", "--base-gguf", "gone.gguf")
    assert code == 2
    assert "gone.gguf" in err
    assert not Path("gone.gguf").exists()
