"""Adapters come and go over HTTP: by which names, from where, and who makes room for whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from shimmy.errors import AdapterError, GGUFError, ModelError
from shimmy.gguf.card import ModelCard
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


def test_a_mix_that_has_a_part_of_what_it_needs_keeps_nobody_waiting(server: FakeServer) -> None:
    """There is memory for the mix or for the third one, which is being read when the mix comes."""

    async def scenario(client: Client) -> None:
        await client.load("two", "two")
        await client.load("one", "one")
        server.context.models.adapters.end("two")
        server.engine.adapter_bytes = 800_000
        server.engine.reading.clear()
        reading = asyncio.create_task(client.load("three", "three"))
        await eventually(server.context.models.adapters._loading.locked)
        server.engine.adapter_bytes = 400_000
        mix = asyncio.create_task(client.ask("one", lora=[{"name": "two"}]))
        await asyncio.sleep(0.05)
        server.engine.reading.set()
        answers = await asyncio.wait_for(asyncio.gather(reading, mix), 5)
        assert [status for status, _ in answers] == [200, 200]

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


def test_a_broken_adapter_that_was_found_may_be_replaced(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = server.catalog.get

    def broken(name: str) -> ModelCard:
        if name == "mine":
            raise AdapterError("adapter 'mine' cannot be used: it is broken.")
        if name == "odd":
            raise ModelError("model 'odd' cannot be used: it is broken.")
        return get(name)

    monkeypatch.setattr(server.catalog, "get", broken)

    async def scenario(client: Client) -> None:
        for name in ("mine", "odd"):
            status, error = await client.load(name, "one")
            problem = f"{name!r} is the name of something already"
            assert (status, error["error"]["message"].startswith(problem)) == (400, True)
        assert (await client.load("odd", "one", load_inplace=True))[0] == 400
        assert (await client.load("mine", "one", load_inplace=True))[0] == 200
        assert (await client.ask("mine"))[0] == 200

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
