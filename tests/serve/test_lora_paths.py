"""From where clients may load adapters, and by which names."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimmy.server.context import adapter_roots
from shimmy.settings import Settings
from tests.serve.fake_engine import FakeServer
from tests.serve.lora_client import Client, make_server, run


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return make_server(tmp_path)


PATHS = (
    *("../elsewhere", "/etc", "one/../../x", "nothing", "link", "a\0b", "circle", "x" * 5000),
    *("one/file_outside", "folder"),
)


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_paths_outside_the_folders_are_refused(server: FakeServer, tmp_path: Path, path: str) -> None:
    outside = tmp_path.parent / "elsewhere"
    outside.mkdir(exist_ok=True)
    (outside / "adapter_model.safetensors").touch()
    for name, target in {
        "link": outside,
        "circle": "circle",
        "one/file_outside": outside / "adapter_model.safetensors",
        "folder/adapter_model.safetensors": outside / "adapter_model.safetensors",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)

    async def scenario(client: Client) -> None:
        status, error = await client.load("x", path)
        assert (status, error["error"]["param"]) == (400, "lora_path")
        assert not server.engine.adapters

    run(server, scenario)


def test_links_within_the_folders_are_followed(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "two" / "adapter_model.safetensors").touch()
    (tmp_path / "one" / "adapter_model.safetensors").symlink_to("../two/adapter_model.safetensors")
    (tmp_path / "latest").symlink_to("one")

    async def scenario(client: Client) -> None:
        status, answer = await client.load("x", "latest")
        assert (status, answer["path"]) == (200, str(tmp_path / "one"))

    run(server, scenario)


def test_the_folders_are_those_where_adapters_are_searched_for(tmp_path: Path) -> None:
    names = ("dirs", "models", "found", "listed", "adapter")
    dirs, models, found, listed, adapter = (tmp_path / name for name in names)
    for folder in (dirs, models, found, listed, adapter):
        folder.mkdir()
    (tmp_path / "model.gguf").touch()
    weights = adapter / "adapter_model.safetensors"
    weights.touch()
    settings = Settings(
        lora_dirs=(dirs,),
        models_dir=models,
        auto_discover=found,
        model_paths=(listed, tmp_path / "model.gguf"),
        lora_gguf=weights,
    )
    roots = [dirs, models, found, listed, Path("models"), adapter]
    assert adapter_roots(settings) == roots
    assert adapter_roots(Settings(lora_gguf=adapter)) == [Path("models"), adapter]


@pytest.mark.parametrize("name", ["", "a b", "x" * 201, "new\nline"])
def test_names_that_are_none(server: FakeServer, name: str) -> None:
    async def scenario(client: Client) -> None:
        status, error = await client.load(name, "one")
        assert (status, error["error"]["param"]) == (400, "lora_name")
        assert "expected letters, digits and the signs" in error["error"]["message"]

    run(server, scenario)
