"""Ollama's store: manifests that name blobs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from shimmy.discovery.names import name_models
from shimmy.discovery.records import FoundModel, Searched, Skipped
from shimmy.settings import Settings
from shimmy_plugins.discovery.ollama import MODEL_LAYER, Ollama
from tests.unit.discovery.homes import every_system, home_of, touch

LIBRARY = "registry.ollama.ai/library"


def add(store: Path, name: str, content: str = "", layers: Any = None) -> Path:
    """A manifest (HOST/…/MODEL/TAG) and its blob, whose path is returned."""
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    blob = touch(store / "blobs" / f"sha256-{digest}")
    if layers is None:
        layers = [
            {"mediaType": MODEL_LAYER, "digest": f"sha256:{digest}", "size": 0},
            {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00", "size": 0},
        ]
    manifest = {"schemaVersion": 2, "config": {}, "layers": layers}
    touch(store / "manifests" / name, json.dumps(manifest))
    return blob


def scan(places, system_folder: Path = Path("/nowhere")) -> list[FoundModel | Skipped]:
    rows = Ollama(places, system_folder).scan(Settings())
    return [row for row in rows if not isinstance(row, Searched)]


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / ".ollama/models"


@pytest.fixture
def places(tmp_path):
    return home_of("linux", tmp_path)


@every_system
def test_the_users_store_on_every_system(system, tmp_path, store):
    blob = add(store, f"{LIBRARY}/llama3.2/1b")
    assert scan(home_of(system, tmp_path)) == [
        FoundModel("llama3.2:1b", blob, "ollama", namespace="registry.ollama.ai/library")
    ]


@pytest.mark.parametrize(
    ("manifest", "name", "aliases"),
    [
        (f"{LIBRARY}/llama3.2/1b", "llama3.2:1b", ()),
        (f"{LIBRARY}/llama3.2/latest", "llama3.2:latest", ("llama3.2",)),
        (f"{LIBRARY}/llama3.2/1b-instruct-q4_K_M", "llama3.2:1b-instruct-q4_K_M", ()),
        ("registry.ollama.ai/someone/tiny/latest", "someone/tiny:latest", ("someone/tiny",)),
        ("hf.co/acme/Tiny-GGUF/Q4_K_M", "hf.co/acme/Tiny-GGUF:Q4_K_M", ()),
    ],
)
def test_names_are_ollamas_own(store, places, manifest, name, aliases):
    add(store, manifest)
    [model] = scan(places)
    assert (model.name, model.aliases) == (name, aliases)
    known, others = name_models([model])
    assert list(known) == [name]
    assert set(aliases) <= set(others)


def test_tags_of_one_file_are_one_blob(store, places):
    add(store, f"{LIBRARY}/tiny/1b", "same")
    add(store, f"{LIBRARY}/tiny/latest", "same")
    one, other = scan(places)
    assert one.path == other.path


def test_ollama_models_comes_before_home_and_system(tmp_path, store):
    places = home_of("linux", tmp_path, OLLAMA_MODELS=str(tmp_path / "mine"))
    first = add(tmp_path / "mine", f"{LIBRARY}/tiny/1b", "a")
    second = add(store, f"{LIBRARY}/tiny/1b", "b")
    system = add(tmp_path / "system", f"{LIBRARY}/big/70b")
    tiny, again, big = scan(places, tmp_path / "system")
    assert (tiny.path, big.path) == (first, system)
    assert again == Skipped(
        second, "ollama", f"{tmp_path / 'mine'} has a model 'tiny:1b' as well, which comes first."
    )


@every_system
def test_only_linux_has_a_store_of_the_system(system, tmp_path):
    folders = Ollama(home_of(system, tmp_path)).folders()
    assert folders[0] == tmp_path / ".ollama/models"
    assert (Path("/usr/share/ollama/.ollama/models") in folders) == (system == "linux")


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "it has 0 layers that are GGUF models, expected one."),
        ([{"mediaType": "application/vnd.ollama.image.tensor"}], "it has 0 layers"),
        ([{"mediaType": MODEL_LAYER}], "its model's digest is None"),
        ([{"mediaType": MODEL_LAYER, "digest": "sha256:../../secret"}], "digest is 'sha256:../../secret'"),
        ([{"mediaType": MODEL_LAYER, "digest": "sha256:" + "0" * 64}], "is missing: pull it again."),
        ([{"mediaType": MODEL_LAYER}] * 2, "it has 2 layers"),
        ("text", "'layers' is str, expected a list"),
        ([None, 7], "it has 0 layers"),
    ],
)
def test_manifests_without_a_model(store, places, layers, reason):
    add(store, f"{LIBRARY}/tiny/1b", layers=layers)
    [row] = scan(places)
    assert row.path == store / "manifests" / LIBRARY / "tiny/1b"
    assert reason in row.reason


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\xff", "[" * 5000])
def test_files_that_are_no_manifests(store, places, content):
    touch(store / "manifests" / LIBRARY / "tiny/1b", content)
    [row] = scan(places)
    assert row.reason == "it is no manifest: expected a JSON object with 'layers'."


def test_files_in_other_places(store, places):
    touch(store / "manifests/stray", "{}")
    touch(store / "manifests" / LIBRARY / ".DS_Store")
    [row] = scan(places)
    assert row.path.name == "stray"
    assert "expected HOST/NAMESPACE/MODEL/TAG" in row.reason


def test_a_store_that_cannot_be_read(tmp_path, monkeypatch):
    locked = tmp_path / "system"
    iterdir = Path.iterdir

    def refuse(self):
        if self == locked:
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert scan(home_of("linux", tmp_path), locked) == [
        Skipped(locked, "ollama", "cannot be read: Permission denied")
    ]


def test_a_fresh_store_is_empty(store, places):
    (store / "blobs").mkdir(parents=True)
    assert scan(places) == []
