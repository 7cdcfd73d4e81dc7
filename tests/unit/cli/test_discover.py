"""``shimmy discover`` and ``shimmy list``, over homes made on the spot."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from shimmy.cli import main
from tests import zoo

MODEL = zoo.model_path("llama_spm.q4_0")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home with one model in each of three programs' folders, and a broken file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("SHIMMY_PLUGINS__DISABLED", "source-python-packages")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    studio = tmp_path / ".lmstudio/models/acme/Tiny-GGUF"
    studio.mkdir(parents=True)
    shutil.copy(MODEL, studio / "Tiny.Q4_0.gguf")
    (studio / "broken.gguf").write_bytes(b"GGUF")
    snapshot = tmp_path / ".cache/huggingface/hub/models--acme--Other-GGUF/snapshots/abc"
    snapshot.mkdir(parents=True)
    shutil.copy(MODEL, snapshot / "Other.Q4_0.gguf")
    store = tmp_path / ".ollama/models"
    digest = hashlib.sha256(b"small").hexdigest()
    (store / "blobs").mkdir(parents=True)
    shutil.copy(MODEL, store / f"blobs/sha256-{digest}")
    manifest = store / "manifests/registry.ollama.ai/library/small/latest"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"layers": [layer]}))
    return tmp_path


@pytest.fixture
def run(capsys):
    def run_it(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return run_it


def test_each_source_shows_what_it_found(home, run):
    lines = run("discover").splitlines()
    assert lines[0].split() == ["SOURCE", "NAME", "ALSO", "CALLED", "SIZE", "PATH"]
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["huggingface", "Other"],
        ["lmstudio", "Tiny"],
        ["ollama", "small:latest"],
    ]
    assert lines[3].split()[2:5] == ["small", "1.7", "MiB"]
    assert lines[-1] == "Skipped: 1. `shimmy discover --all` says what, and why."


def test_all_tells_what_was_skipped_and_where_it_looked(home, run):
    out = run("discover", "--all")
    assert "metadata count" in out or "expected" in out
    rows = [line.split() for line in out.splitlines()]
    assert [str(home / ".lmstudio/models"), "lmstudio", "yes"] in rows
    assert [str(home / "lm-studio/models"), "lmstudio", "no"] in rows
    assert any("broken.gguf" in row[0] for row in rows if row)


def test_as_json(home, run):
    found = json.loads(run("discover", "--json"))
    assert set(found) == {"models", "clashes"}
    by_name = {row["name"]: row for row in found["models"]}
    assert by_name["small:latest"]["aliases"] == ["small"]
    everything = json.loads(run("discover", "--all", "--json"))
    assert set(everything) == {"models", "clashes", "skipped", "searched"}
    assert any(row["path"].endswith("broken.gguf") for row in everything["skipped"])
    assert {row["source"] for row in everything["searched"]} >= {"huggingface", "lmstudio", "ollama"}


def test_list_stays_short(home, run):
    names = [line.split()[0] for line in run("list").splitlines()]
    assert names == ["NAME", "Other", "Tiny", "small:latest"]


def test_names_of_the_users_own_are_listed(home, run):
    own = ("--served-model-name", "Tiny=gpt-4", "--served-model-name", "mine")
    assert run("list", "--short", *own).split() == ["Other", "Tiny", "small:latest", "gpt-4", "mine"]
    rows = {row["name"]: row["path"] for row in json.loads(run("list", "--json", *own))["models"]}
    assert (rows["gpt-4"], rows["mine"]) == (rows["Tiny"], rows["Other"])


@pytest.mark.parametrize("command", ["discover", "list", "serve"])
def test_a_name_for_an_unknown_model_is_refused(home, capsys, monkeypatch, command):
    monkeypatch.setattr("shimmy.cli.serve.listen", lambda *address: pytest.fail("it listens"))
    assert main([command, "--served-model-name", "Tinny=gpt-4"]) == 2
    error = capsys.readouterr().err
    assert "there is no model 'Tinny'" in error
    assert "Did you mean 'Tiny'?" in error


def test_where_nothing_is_found(home, run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "empty"))
    assert run("discover").startswith("No models. Name a GGUF file with --base-gguf")
