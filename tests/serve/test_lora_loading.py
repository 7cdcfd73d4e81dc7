"""Adapters come and go over HTTP: by which names, from where, and who makes room for whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from shimmy.errors import AdapterError, GGUFError
from shimmy.server.context import adapter_roots
from shimmy.settings import Settings
from tests.serve.fake_engine import FakeServer, eventually
from tests.serve.lora_client import Client, make_server, run


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return make_server(tmp_path)


def test_replaced_only_if_asked_and_only_by_one_that_works(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        await client.load("one", "one")
        [before] = server.engine.adapters
        status, error = await client.load("one", "two")
        assert (status, error["error"]["param"]) == (400, "lora_name")
        server.engine.adapter_error = AdapterError("it is broken.")
        status, error = await client.load("one", "two", load_inplace=True)
        assert (status, error["error"]["code"]) == (400, "invalid_adapter")
        assert server.engine.adapters == {before}
        assert (await client.ask("one"))[0] == 200
        server.engine.adapter_error = None
        assert (await client.load("one", "two", replace=True))[0] == 200
        [after] = server.engine.adapters
        assert after != before
        await client.ask("one")
        assert server.engine.applied[-1] == [(after, 1.0)]

    run(server, scenario)


def test_what_cannot_be_read_takes_nobodys_place(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        for name in ("one", "two"):
            await client.load(name, name)
        before = set(server.engine.adapters)
        server.engine.adapter_error = AdapterError("it is broken.")
        for name, fields in (("one", {"load_inplace": True}), ("three", {})):
            assert (await client.load(name, "three", **fields))[0] == 400
        assert server.engine.adapters == before
        # A replacement needs no place but that of the version before.
        server.engine.adapter_error = None
        assert (await client.load("one", "three", load_inplace=True))[0] == 200
        assert len(server.engine.adapters & before) == 1
        assert {v.card.name for v in server.context.models.adapters._versions} == {"one", "two"}

    run(server, scenario)


def test_what_is_broken_at_first_use_is_the_requests_fault(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        await client.load("one", "one")
        for name in ("two", "three"):
            await client.load(name, name)
        server.engine.adapter_error = GGUFError("tensor 'x' ends behind the file.")
        status, error = await client.ask("one")
        assert (status, error["code"]) == (400, "invalid_adapter")
        assert "one: tensor 'x' ends behind the file." in error["error"]
        assert [(await client.ask(name))[0] for name in ("two", "three", "echo")] == [200] * 3

    run(server, scenario)


def test_memory_is_for_all_together(server: FakeServer) -> None:
    """There is 1 MiB; each adapter takes half of it and a bit."""

    async def scenario(client: Client) -> None:
        server.engine.adapter_bytes = 2**19 + 2**17
        for name in ("one", "two"):
            await client.load(name, name)
        assert [v.card.name for v in server.context.models.adapters._versions] == ["two"]
        status, error = await client.ask("one", lora=[{"name": "two"}])
        assert (status, error["code"]) == (400, "invalid_adapter")
        assert "0.6 of 'one' + 0.6 of 'two' MiB are more than the 1.0 MiB" in error["error"]
        # One that is in use keeps its memory, so the next one waits.
        server.engine.prefill.clear()
        running = asyncio.create_task(client.ask("one"))
        await eventually(lambda: server.engine.active)
        waiting = asyncio.create_task(client.ask("two"))
        await asyncio.sleep(0.05)
        assert server.engine.active == 1
        server.engine.prefill.set()
        assert [status for status, _ in await asyncio.gather(running, waiting)] == [200, 200]
        server.engine.adapter_bytes = 2**20 + 1
        status, error = await client.load("three", "three")
        assert (status, "Raise lora_memory." in error["error"]["message"]) == (400, True)
        assert [v.card.name for v in server.context.models.adapters._versions] == ["two"]

    run(server, scenario)


def test_a_running_request_keeps_its_version(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        await client.load("one", "one")
        [before] = server.engine.adapters
        server.engine.prefill.clear()
        running = asyncio.create_task(client.ask("one"))
        while not server.engine.active:
            await asyncio.sleep(0)
        await client.load("one", "two", replace=True)
        assert before in server.engine.adapters
        await client("post", "/v1/unload_lora_adapter", {"lora_name": "one"})
        assert server.engine.adapters == {before}
        server.engine.prefill.set()
        assert (await running)[0] == 200
        assert not server.engine.adapters

    run(server, scenario)


def test_the_longest_unused_leaves_and_comes_back(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        for name in ("one", "two"):
            await client.load(name, name)
        await client.ask("one")
        await client.load("three", "three")
        assert len(server.engine.adapters) == 2
        assert {v.card.name for v in server.context.models.adapters._versions} == {"one", "three"}
        assert (await client.ask("two"))[0] == 200
        assert {v.card.name for v in server.context.models.adapters._versions} == {"two", "three"}

    run(server, scenario)


def test_where_all_places_are_in_use_a_request_waits(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        for name in ("one", "two"):
            await client.load(name, name)
        server.engine.prefill.clear()
        running = [asyncio.create_task(client.ask(name)) for name in ("one", "two")]
        while server.engine.active < 2:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(client.load("three", "three"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        server.engine.prefill.set()
        assert [status for status, _ in await asyncio.gather(*running, waiting)] == [200] * 3

    run(server, scenario)


def test_mixes_that_wait_for_each_others_places_all_end(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        for name in ("one", "two", "three"):
            await client.load(name, name)
        mixes = [("one", "two"), ("two", "three"), ("three", "one")] * 4
        asked = (client.ask(first, lora=[{"name": second}]) for first, second in mixes)
        answers = await asyncio.wait_for(asyncio.gather(*asked), 20)
        assert {status for status, _ in answers} == {200}
        status, error = await client.ask("one", lora=[{"name": "two"}, {"name": "three"}])
        assert (status, "at most 2" in error["error"]) == (400, True)

    run(server, scenario)


def test_a_request_that_waited_does_not_bring_an_unloaded_adapter_back(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        for name in ("one", "two", "three"):
            await client.load(name, name)
        server.engine.prefill.clear()
        running = [asyncio.create_task(client.ask(name)) for name in ("two", "three")]
        while server.engine.active < 2:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(client.ask("one"))
        await asyncio.sleep(0.05)
        assert (await client("post", "/v1/unload_lora_adapter", {"lora_name": "one"}))[0] == 200
        server.engine.prefill.set()
        assert [status for status, _ in await asyncio.gather(*running, waiting)] == [200] * 3
        assert (await client.ask("one"))[0] == 404
        assert (await client.load("one", "one"))[0] == 200

    run(server, scenario)


def test_an_adapter_never_takes_a_name_that_means_something_else(server: FakeServer) -> None:
    cards = server.catalog.cards
    robot = replace(cards["echo"], name="robot", adapter=Path("robot"), base=cards["echo"])
    cards |= {"robot": robot, "echo:robot": robot, "alias": cards["other"]}

    async def scenario(client: Client) -> None:
        for name, problem in {
            "echo": "there is a model 'echo' already",
            "alias": "'alias' is another name of 'other'",
            "echo:robot": "'echo:robot' is another name of 'robot'",
            "other:new": "'other:new' would be another name of an adapter of the model 'other'",
        }.items():
            status, error = await client.load(name, "one", load_inplace=True)
            assert (status, error["error"]["param"]) == (400, "lora_name")
            assert error["error"]["message"].startswith(problem)
        assert not server.engine.adapters
        # One that was found on disk may be replaced until that is unloaded.
        assert (await client.load("robot", "one"))[0] == 400
        assert (await client.load("robot", "one", load_inplace=True))[0] == 200
        await client("post", "/v1/unload_lora_adapter", {"lora_name": "robot"})
        for _ in range(2):
            assert (await client.ask("robot"))[0] == 200
            [version] = server.context.models.adapters._versions
            assert version.card == robot

    run(server, scenario)


def test_of_two_loads_at_once_one_wins(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        answers = await asyncio.gather(*(client.load("mine", path) for path in ("one", "two")))
        assert sorted(status for status, _ in answers) == [200, 400]
        [won] = [answer for status, answer in answers if status == 200]
        [lost] = [answer for status, answer in answers if status == 400]
        assert lost["error"]["message"].startswith("there is an adapter 'mine' already.")
        [version] = server.context.models.adapters._versions
        assert str(version.card.adapter) == won["path"]
        answers = await asyncio.gather(*(client.load("mine", p, load_inplace=True) for p in ("one", "two")))
        assert [status for status, _ in answers] == [200, 200]
        assert len(server.engine.adapters) == 1

    run(server, scenario)


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
