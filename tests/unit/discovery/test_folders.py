"""Hugging Face model folders, wherever sources look."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shimmy.discovery.catalog import Catalog
from shimmy.discovery.checkpoints import name_checkpoints
from shimmy.discovery.names import name_models
from shimmy.discovery.records import FoundModel
from shimmy.discovery.scan import find_models
from shimmy.errors import ModelError
from shimmy.plugins import Plugins
from shimmy.settings import load_settings
from shimmy_plugins.discovery.huggingface import HuggingFaceCache
from tests.folders import FOLDER, copy
from tests.unit.discovery.homes import home_of, touch


def test_folders_are_called_as_they_are(tmp_path: Path):
    for name in ("plain", "Tiny-3.2-1B", "tune-q4_0", "deep/er"):
        for file in ("config.json", "model.safetensors"):
            touch(tmp_path / name / file)
    touch(tmp_path / "plain" / "model.gguf")
    for other in (
        "adapter/config.json",
        "adapter/adapter_config.json",
        "adapter/x.safetensors",
        "c/config.json",
    ):
        touch(tmp_path / other)
    names, _ = name_models([each for each in find_models(tmp_path, "test") if isinstance(each, FoundModel)])
    found = {name: model.path.relative_to(tmp_path).as_posix() for name, model in names.items()}
    assert found == {
        "model": "plain/model.gguf",
        "plain": "plain",
        "Tiny-3.2-1B": "Tiny-3.2-1B",
        "tune-q4_0": "tune-q4_0",
        "er": "deep/er",
    }


def test_a_folder_may_be_named_itself(tmp_path: Path):
    folder = copy("mistral", tmp_path)
    assert list(find_models(folder, "test", namespaces=True)) == [FoundModel("mistral", folder, "test")]


def named(tmp_path: Path, *folders: str, broken: str = "") -> dict[str, str]:
    """What these folders, and no others, are called."""
    for folder in folders:
        for file in ("config.json", "model.safetensors"):
            touch(tmp_path / folder / file)
    found = [each for each in find_models(tmp_path, "test") if isinstance(each, FoundModel)]
    models = name_checkpoints(found, lambda each: each.path != tmp_path / broken)
    return {each.path.relative_to(tmp_path).as_posix(): each.name for each in models}


def test_checkpoints_of_a_training(tmp_path: Path):
    folders = ("done", "done/checkpoint-20", "running/checkpoint-9", "running/checkpoint-100")
    assert named(tmp_path, *folders) == {
        "done": "done",
        "done/checkpoint-20": "done@checkpoint-20",
        "running/checkpoint-9": "running@checkpoint-9",
        "running/checkpoint-100": "running",
    }


def test_a_broken_checkpoint_does_not_stand_for_its_training(tmp_path: Path):
    names = named(tmp_path, "a/checkpoint-9", "a/checkpoint-10", broken="a/checkpoint-10")
    assert names == {"a/checkpoint-9": "a", "a/checkpoint-10": "a@checkpoint-10"}
    assert named(tmp_path / "alone", "b/checkpoint-7", broken="b/checkpoint-7") == {"b/checkpoint-7": "b"}


def test_a_checkpoint_under_way_is_not_looked_at(tmp_path: Path):
    assert named(tmp_path, "a/checkpoint-9", "a/tmp-checkpoint-10") == {"a/checkpoint-9": "a"}


def test_a_repository_of_the_cache_is_called_as_people_know_it(tmp_path: Path):
    hub = tmp_path / ".cache/huggingface/hub"
    snapshot = hub / "models--acme--Tiny-3.2" / "snapshots" / ("a" * 40)
    blobs = shutil.copytree(FOLDER / "mistral", hub / "models--acme--Tiny-3.2" / "blobs")
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(os.path.relpath(blob, snapshot))
    places = home_of("linux", tmp_path)
    [model] = [row for row in HuggingFaceCache(places).scan(load_settings()) if isinstance(row, FoundModel)]
    assert model == FoundModel("Tiny-3.2", snapshot, "huggingface", namespace="acme")
    names, aliases = name_models([model])
    assert list(names) == ["Tiny-3.2"]
    assert aliases["acme/Tiny-3.2"] is model


def test_cards_of_folders(tmp_path: Path, plugins: Plugins):
    copy("mistral", tmp_path)
    catalog = Catalog(load_settings({"models_dir": str(tmp_path), "quantize": "q8_0"}), plugins)
    card = catalog.get("mistral")
    assert (card.architecture, card.context_length, card.quantization) == ("llama", 512, "Q8_0")
    assert card.size_bytes == (FOLDER / "mistral" / "model.safetensors").stat().st_size
    assert card.parameters == sum([484 * 48, 48, 2 * (48 * (64 * 2 + 32 * 2) + 48 * 64 * 3 + 48 * 2)])
    assert card.has_chat_template
    assert card in catalog.models()


def test_what_is_wrong_with_a_folder_is_told_and_seen_to_be_mended(tmp_path: Path, plugins: Plugins):
    folder = copy("mistral", tmp_path)
    (folder / "tokenizer.json").rename(tmp_path / "away.json")
    catalog = Catalog(load_settings({"models_dir": str(tmp_path)}), plugins)
    assert "has no 'tokenizer.json'" in {row.path: row.reason for row in catalog.skipped}[folder]
    with pytest.raises(ModelError, match=r"model 'mistral' cannot be used: .*has no 'tokenizer\.json'"):
        catalog.get("mistral")
    (tmp_path / "away.json").rename(folder / "tokenizer.json")
    assert catalog.get("mistral").path == folder


def test_a_folder_may_be_the_default(tmp_path: Path, plugins: Plugins):
    folder = copy("mistral", tmp_path)
    catalog = Catalog(load_settings({"base_gguf": str(folder)}), plugins)
    assert catalog.default().name == "mistral"
