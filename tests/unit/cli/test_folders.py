"""Hugging Face model folders on the command line: by path, by name, as the default model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.folders import FOLDER, copy
from tests.unit.cli.conftest import Run

LLAMA = str(FOLDER / "llama3")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMMY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SHIMMY_PLUGINS__DISABLED", "source-python-packages")


def test_probe_by_path(run: Run):
    code, out, _ = run("probe", LLAMA, "--json", "--quantize", "q8_0")
    assert code == 0
    report = json.loads(out)
    assert report["model"]["name"] == "llama3"
    assert report["model"]["path"] == LLAMA
    assert set(report["model"]["bytes_by_type"]) == {"Q8_0", "F32"}
    assert report["context"] == {"native": 512, "effective": 512, "rope": "llama3", "rope_factor": 1.0}
    assert report["tokenizer"]["kind"] == "huggingface"


def test_generate_by_name(run: Run):
    folders = str(FOLDER)
    arguments = (
        "--raw",
        "--prompt",
        "The quick brown fox",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--json",
    )
    code, out, _ = run("generate", "llama3", "--models-dir", folders, *arguments)
    assert code == 0
    answer = json.loads(out)
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("llama3", 4)
    code, again, _ = run("generate", "--base-gguf", LLAMA, *arguments)
    assert code == 0
    assert json.loads(again)["response"] == answer["response"]


def test_the_list_says_what_becomes_of_folders(run: Run):
    folders = ("--models-dir", str(FOLDER), "--all", "--quantize", "q4_0")
    code, out, _ = run("--without", "arch-qwen2", "list", *folders)
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "Q4_0 (converted)" in rows["llama3"]
    assert str(FOLDER / "mistral") in rows["mistral"]
    assert "no plugin converts the architecture 'Qwen2ForCausalLM'" in out


def test_what_is_wrong_with_a_folder(run: Run, tmp_path: Path):
    folder = copy("llama3", tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    code, out, err = run("generate", str(folder), "--prompt", "x")
    assert (code, out) == (1, "")
    assert "'model-00002-of-00003.safetensors' of 3 weight files is missing" in err


def test_a_type_that_cannot_be_written(run: Run):
    code, _, err = run("list", "--quantize", "q6_k")
    assert code == 2
    assert "quantize is 'q6_k' (from --quantize): the type Q6_K can be read, but not written" in err


def test_a_path_that_leads_nowhere(run: Run):
    code, _, err = run("probe", str(FOLDER / "nowhere"))
    assert code == 1
    assert "there is no model" in err
