"""LM Studio's folders, which have moved from version to version."""

from __future__ import annotations

import json

import pytest

from shimmy.discovery.names import name_models
from shimmy.discovery.records import FoundModel, Searched
from shimmy.settings import Settings
from shimmy_plugins.discovery.lmstudio import LMStudio
from tests.unit.discovery.homes import every_system, home_of, touch

FILE = "acme/Tiny-1B-GGUF/Tiny-1B-Q4_K_M.gguf"


def scan(places) -> list:
    return [row for row in LMStudio(places).scan(Settings()) if not isinstance(row, Searched)]


@every_system
@pytest.mark.parametrize("folder", [".lmstudio/models", ".cache/lm-studio/models", "lm-studio/models"])
def test_folders_of_every_system(system, folder, tmp_path):
    path = touch(tmp_path / folder / FILE)
    [model] = scan(home_of(system, tmp_path))
    assert model == FoundModel("Tiny-1B-Q4_K_M", path, "lmstudio", namespace="acme/Tiny-1B-GGUF")
    assert list(name_models([model])[0]) == ["Tiny-1B"]


@pytest.mark.parametrize(
    ("system", "folder"),
    [
        ("darwin", "Library/Application Support/LMStudio/models"),
        ("darwin", "Library/Application Support/LM Studio/models"),
        ("win32", "AppData/Roaming/LM Studio/models"),
        ("win32", "AppData/Local/LM Studio/models"),
        ("linux", ".config/LM Studio/models"),
    ],
)
def test_folders_of_one_system(system, folder, tmp_path):
    path = touch(tmp_path / folder / FILE)
    assert [model.path for model in scan(home_of(system, tmp_path))] == [path]


@every_system
def test_the_pointer_file(system, tmp_path):
    touch(tmp_path / ".lmstudio-home-pointer", f"{tmp_path / 'disk'}\n")
    path = touch(tmp_path / "disk/models" / FILE)
    assert [model.path for model in scan(home_of(system, tmp_path))] == [path]


@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("linux", ".lmstudio/settings.json"),
        ("darwin", ".cache/lm-studio/settings.json"),
        ("win32", "AppData/Roaming/LM Studio/settings.json"),
    ],
)
def test_the_folder_chosen_in_the_settings(system, settings, tmp_path):
    touch(tmp_path / settings, json.dumps({"downloadsFolder": str(tmp_path / "big disk"), "other": 1}))
    path = touch(tmp_path / "big disk" / FILE)
    assert [model.path for model in scan(home_of(system, tmp_path))] == [path]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"downloadsFolder": 5}', '{"downloadsFolder": " "}', "[" * 5000]
)
def test_settings_that_name_no_folder(text, tmp_path):
    touch(tmp_path / ".lmstudio/settings.json", text)
    touch(tmp_path / ".lmstudio-home-pointer", "\n")
    assert scan(home_of("linux", tmp_path)) == []


def test_a_folder_is_searched_once(tmp_path):
    touch(tmp_path / ".lmstudio-home-pointer", str(tmp_path / ".lmstudio"))
    folders = LMStudio(home_of("linux", tmp_path)).folders()
    assert len(folders) == len(set(folders))


def test_downloads_under_way_and_split_models(tmp_path):
    folder = tmp_path / ".lmstudio/models/acme/big"
    for name in ("tiny.gguf.part", "downloading.tmp.gguf", "x.part.gguf", "b-00001-of-00002.gguf"):
        touch(folder / name)
    [row] = scan(home_of("linux", tmp_path))
    assert "parts missing: b-00002-of-00002.gguf" in row.reason
    first = folder / "b-00001-of-00002.gguf"
    touch(folder / "b-00002-of-00002.gguf")
    assert scan(home_of("linux", tmp_path)) == [FoundModel("b", first, "lmstudio", namespace="acme/big")]


def test_what_the_source_says_of_its_places(tmp_path):
    (tmp_path / ".lmstudio/models").mkdir(parents=True)
    rows = list(LMStudio(home_of("linux", tmp_path)).scan(Settings()))
    assert Searched(tmp_path / ".lmstudio/models", "lmstudio", exists=True) in rows
    assert Searched(tmp_path / "lm-studio/models", "lmstudio", exists=False) in rows
