"""The Hugging Face cache, as its libraries lay it out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shimmy.discovery.catalog import Catalog
from shimmy.discovery.names import name_models
from shimmy.discovery.records import FoundAdapter, FoundModel, Searched, Skipped
from shimmy.plugins import PluginChoice, load_plugins
from shimmy.settings import Settings
from shimmy_plugins.discovery.huggingface import HuggingFaceCache
from tests.unit.discovery.homes import every_system, home_of, touch
from tests.zoo import LORA, model_path

REPOSITORY = "models--acme--Tiny-1B-GGUF"
OLD, MAIN, NEW = "a" * 40, "b" * 40, "c" * 40


def add(hub: Path, revision: str, name: str, *, link: bool = True, age: int = 0) -> Path:
    """A file of a revision: a link into the blobs, or a copy as on Windows."""
    snapshot = hub / REPOSITORY / "snapshots" / revision
    path = snapshot / name
    if link:
        blob = touch(hub / REPOSITORY / "blobs" / f"{revision}{name.replace('/', '')}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(blob, path.parent))
    else:
        touch(path)
    os.utime(snapshot, (1_000_000 - age, 1_000_000 - age))
    return path


def found(places) -> list[FoundModel]:
    return [row for row in HuggingFaceCache(places).scan(Settings()) if isinstance(row, FoundModel)]


def skipped(places) -> list[Skipped]:
    return [row for row in HuggingFaceCache(places).scan(Settings()) if isinstance(row, Skipped)]


@every_system
def test_the_default_cache_of_every_system(system, tmp_path):
    path = add(tmp_path / ".cache/huggingface/hub", MAIN, "Tiny-1B.Q4_K_M.gguf", link=system != "win32")
    [model] = found(home_of(system, tmp_path))
    assert model == FoundModel("Tiny-1B.Q4_K_M", path, "huggingface", namespace="acme/Tiny-1B-GGUF")
    names, aliases = name_models([model])
    assert list(names) == ["Tiny-1B"]
    assert aliases["acme/Tiny-1B-GGUF/Tiny-1B.Q4_K_M"] is model


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "a", "HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c"}, "a"),
        ({"HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c"}, "b"),
        ({"HF_HOME": "c", "XDG_CACHE_HOME": "d"}, "c/hub"),
        ({"XDG_CACHE_HOME": "d"}, "d/huggingface/hub"),
    ],
)
def test_variables_in_their_order(tmp_path, variables, folder):
    places = home_of("linux", tmp_path, **{name: str(tmp_path / value) for name, value in variables.items()})
    assert HuggingFaceCache(places).folder() == tmp_path / folder
    assert list(HuggingFaceCache(places).scan(Settings())) == [
        Searched(tmp_path / folder, "huggingface", exists=False)
    ]


def test_a_variable_may_name_the_home(tmp_path):
    assert HuggingFaceCache(home_of("linux", tmp_path, HF_HOME="~/hf")).folder() == tmp_path / "hf/hub"


@pytest.fixture
def hub(tmp_path) -> Path:
    return tmp_path / ".cache/huggingface/hub"


@pytest.fixture
def places(tmp_path):
    return home_of("linux", tmp_path)


def test_revisions_are_one_model(hub, places):
    for revision, age in ((OLD, 3), (MAIN, 2), (NEW, 1)):
        add(hub, revision, "tiny.gguf", age=age)
    add(hub, OLD, "only-old.gguf", age=3)
    assert [model.path.parent.name for model in found(places)] == [NEW, OLD]
    touch(hub / REPOSITORY / "refs/main", MAIN + "\n")
    assert [model.path.parent.name for model in found(places)] == [MAIN, OLD]


def test_an_older_revision_serves_where_a_newer_one_is_broken(hub, places):
    add(hub, OLD, "tiny.gguf", age=9)
    broken = add(hub, NEW, "tiny.gguf")
    broken.resolve().unlink()
    assert [model.path.parent.name for model in found(places)] == [OLD]
    assert skipped(places) == []


def test_interrupted_downloads(hub, places):
    touch(hub / REPOSITORY / "blobs/1234.incomplete")
    broken = add(hub, MAIN, "tiny.gguf")
    broken.resolve().unlink()
    [row] = skipped(places)
    assert row == Skipped(broken, "huggingface", "the data it links to is missing: download it again.")
    assert found(places) == []


def test_split_models_in_folders(hub, places):
    for number in (1, 2):
        add(hub, MAIN, f"BF16/Tiny-BF16-0000{number}-of-00002.gguf")
    gone = add(hub, MAIN, "Q8_0/Tiny-Q8_0-00001-of-00002.gguf")
    [model] = found(places)
    assert (model.name, model.namespace) == ("Tiny-BF16", "acme/Tiny-1B-GGUF/BF16")
    assert model.path.name == "Tiny-BF16-00001-of-00002.gguf"
    [row] = skipped(places)
    assert row.path == gone
    assert "1 of its 2 parts missing: Tiny-Q8_0-00002-of-00002.gguf" in row.reason


def test_parts_of_different_revisions_are_not_mixed(hub, places):
    add(hub, NEW, "tiny-00001-of-00002.gguf")
    add(hub, OLD, "tiny-00002-of-00002.gguf", age=5)
    assert found(places) == []
    assert len(skipped(places)) == 1


def test_files_without_a_name_take_the_repositorys(hub, places):
    add(hub, MAIN, "ggml-model-Q4_0.gguf")
    [model] = found(places)
    assert list(name_models([model])[0]) == ["Tiny-1B"]


def test_other_things_are_passed_over(hub, places):
    touch(hub / "datasets--acme--text/snapshots/x/data.gguf")
    touch(hub / "version.txt", "1")
    touch(hub / REPOSITORY / "snapshots" / MAIN / "config.json")
    touch(hub / "models--empty--one/refs/main", MAIN)
    assert found(places) == skipped(places) == []


def test_a_repository_that_cannot_be_read(hub, places, monkeypatch):
    add(hub, MAIN, "tiny.gguf")
    touch(hub / "models--b--locked/snapshots/x/tiny.gguf")
    iterdir = Path.iterdir

    def refuse(self):
        if "locked" in str(self):
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert len(found(places)) == 1
    assert [(row.path.name, row.reason) for row in skipped(places)] == [
        ("models--b--locked", "cannot be read: Permission denied")
    ]


def download(hub: Path, repository: str, revision: str, adapter: Path) -> Path:
    """An adapter as ``hf download`` fetches it: links into the blobs."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    for file in adapter.iterdir():
        blob = touch(folder / "blobs" / f"{revision}-{file.name}", file.read_bytes())
        touch(snapshot / file.name).unlink()
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_an_adapter_is_called_like_its_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = download(tmp_path, "acme/my-lora", MAIN, LORA / "llama_spm_qk")
    plugins = load_plugins(PluginChoice(disabled=("source-python-packages",)))
    settings = Settings(base_gguf=model_path("llama_spm.f16"))
    catalog = Catalog(settings, plugins)
    card = catalog.get("my-lora")
    assert (card.adapter, card.source, card.base.path) == (snapshot, "huggingface", settings.base_gguf)
    assert catalog.get("acme/my-lora") == card
    assert catalog.aliases("my-lora") == [f"{card.base.name}:my-lora", "acme/my-lora"]
    other = download(tmp_path, "zeus/my-lora", MAIN, LORA / "llama_spm_robot")
    catalog = Catalog(settings, plugins)
    assert catalog.get("acme/my-lora").adapter == snapshot
    assert catalog.get("zeus/my-lora").adapter == other
    assert {"acme/my-lora", "zeus/my-lora"} <= set(catalog.names())


def test_the_best_revision_of_an_adapter(tmp_path):
    hub = tmp_path / ".cache/huggingface/hub"
    old = download(hub, "acme/my-lora", OLD, LORA / "llama_spm_qk")
    main = download(hub, "acme/my-lora", MAIN, LORA / "llama_spm_qk")
    touch(hub / "models--acme--my-lora/refs/main", MAIN)
    places = home_of("linux", tmp_path)
    adapter = FoundAdapter("my-lora", main, "huggingface", namespace="acme")
    adapters = [row for row in HuggingFaceCache(places).scan(Settings()) if isinstance(row, FoundAdapter)]
    assert adapters == [adapter]
    (main / "adapter_model.safetensors").resolve().unlink()
    adapters = [row for row in HuggingFaceCache(places).scan(Settings()) if isinstance(row, FoundAdapter)]
    assert [each.path for each in adapters] == [old]
    (old / "adapter_model.safetensors").resolve().unlink()
    assert [row.reason for row in skipped(places)] == ["the data it links to is missing: download it again."]
