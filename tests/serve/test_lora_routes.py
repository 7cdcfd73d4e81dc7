"""Adapters over HTTP, on an engine that repeats its prompt: loaded, mixed, replaced, unloaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from shimmy.errors import AdapterError
from shimmy.server.registered import RegisteredAdapters
from shimmy.settings import Settings
from tests.serve.fake_engine import FakeServer

LOCAL = {"scope_base": {"client": ("127.0.0.1", 5000)}}
REMOTE = {"scope_base": {"client": ("192.0.2.7", 5000)}}


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    made = FakeServer("echo", "other", settings=Settings(max_loaded_models=2))
    object.__setattr__(made.context, "adapters", RegisteredAdapters([tmp_path]))
    return made


class Client:
    """Requests to an app that runs."""

    def __init__(self, running: Any) -> None:
        self._running = running

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        sent = {**LOCAL, **options}
        if body is not None:
            sent["data"] = json.dumps(body)
        response = await getattr(self._running.test_client(), method)(path, **sent)
        return response.status_code, json.loads(await response.get_data())

    async def load(self, name: str, path: str, **fields: Any) -> tuple[int, Any]:
        return await self("post", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **fields})

    async def ask(self, model: str, **fields: Any) -> tuple[int, Any]:
        return await self("post", "/api/generate", {"model": model, "prompt": "abc", **fields})


def run(server: FakeServer, scenario: Any) -> None:
    async def start() -> None:
        async with server.app.test_app() as running:
            await scenario(Client(running))

    asyncio.run(start())


def test_loaded_asked_and_unloaded(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        assert (await client.load("pirate", "one"))[0] == 200
        status, answer = await client.ask("pirate")
        assert (status, answer["model"], answer["response"]) == (200, "pirate", "abc")
        [adapter] = server.engine.adapters
        assert server.engine.applied == [[(adapter, 1.0)]]
        await client.ask("echo")
        assert server.engine.applied[1] == []
        models = (await client("get", "/v1/models"))[1]["data"]
        assert [(m["id"], m["parent"]) for m in models if m["id"] == "pirate"] == [("pirate", "echo")]
        assert (await client("post", "/v1/unload_lora_adapter", {"lora_name": "pirate"}))[0] == 200
        assert not server.engine.adapters
        assert (await client.ask("pirate"))[0] == 404
        status, error = await client("post", "/v1/unload_lora_adapter", {"lora_name": "pirate"})
        assert (status, error["error"]["code"]) == (404, "model_not_found")

    run(server, scenario)


def test_mixed_in_every_api(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        await client.load("one", "one")
        await client.load("two", "two")
        first, second = sorted(server.engine.adapters)
        wanted = [{"name": "one", "scale": 0.5}, {"name": "two"}]
        assert (await client.ask("echo", lora=wanted))[0] == 200
        assert (await client.ask("one", lora=wanted[1:]))[0] == 200
        chat = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "lora": wanted[:1]}
        assert (await client("post", "/v1/chat/completions", chat))[0] == 200
        assert server.engine.applied == [
            [(first, 0.5), (second, 1.0)],
            [(first, 1.0), (second, 1.0)],
            [(first, 0.5)],
        ]
        for wrong, problem in (
            ([{"name": "echo"}], "is a model, not an adapter"),
            ([{"name": "nobody"}], "there is no model 'nobody'"),
            ([{"name": "one", "strength": 1}], "strength"),
            ([{"name": "one"}] * 5, "lora"),
        ):
            status, error = await client.ask("echo", lora=wrong)
            assert status in (400, 404)
            assert problem in error["error"]
        status, error = await client.ask("other", lora=[{"name": "one"}])
        assert (status, error["error"].startswith("'one' is no adapter of 'other'.")) == (400, True)

    run(server, scenario)


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


def test_an_adapter_never_takes_a_models_name(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        for name in ("echo", "other"):
            status, error = await client.load(name, "one", load_inplace=True)
            assert (status, error["error"]["param"]) == (400, "lora_name")
        assert not server.engine.adapters

    run(server, scenario)


def test_factors_for_everyone(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        await client.load("one", "one")
        await client.load("two", "two")
        first, second = sorted(server.engine.adapters)
        rows = (await client("get", "/lora-adapters"))[1]
        assert [(row["id"], row["name"], row["base"], row["scale"]) for row in rows] == [
            (0, "one", "echo", 0.0),
            (1, "two", "echo", 0.0),
        ]
        assert (await client("post", "/lora-adapters", [{"id": 1, "scale": 0.25}]))[0] == 200
        await client.ask("echo")
        await client.ask("one")
        await client.ask("other")
        assert server.engine.applied == [[(second, 0.25)], [(first, 1.0)]]
        assert (await client("get", "/lora-adapters"))[1][1]["scale"] == 0.25
        status, error = await client("post", "/lora-adapters", [{"id": 9, "scale": 1}])
        assert (status, error["error"]["message"]) == (
            400,
            "there is no adapter with id 9. GET /lora-adapters lists them.",
        )
        assert (await client("post", "/lora-adapters", {"id": 1}))[0] == 400

    run(server, scenario)


@pytest.mark.parametrize(
    "path", ["../elsewhere", "/etc", "one/../../x", "nothing", "link", "a\0b"], ids=ascii
)
def test_paths_outside_the_folders_are_refused(server: FakeServer, tmp_path: Path, path: str) -> None:
    (tmp_path.parent / "elsewhere").mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(tmp_path.parent / "elsewhere")

    async def scenario(client: Client) -> None:
        status, error = await client.load("x", path)
        assert (status, error["error"]["param"]) == (400, "lora_path")
        assert not server.engine.adapters

    run(server, scenario)


@contextmanager
def admin_key(server: FakeServer, key: str) -> Iterator[None]:
    object.__setattr__(server.context, "settings", Settings(admin_key=SecretStr(key)))
    yield


def test_only_from_this_machine_or_with_the_key(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        body = {"lora_name": "one", "lora_path": "one"}
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/lora-adapters"):
            status, error = await client("post", path, body, **REMOTE)
            assert (status, error["error"]["code"]) == (403, "forbidden")
        proxied = {"X-Forwarded-For": "192.0.2.7"}
        assert (await client("post", "/v1/load_lora_adapter", body, headers=proxied))[0] == 403
        with admin_key(server, "sesame"):
            for headers, status in (({}, 403), ({"Authorization": "Bearer wrong"}, 403)):
                sent = {**REMOTE, "headers": headers}
                assert (await client("post", "/v1/load_lora_adapter", body, **sent))[0] == status
            sent = {**REMOTE, "headers": {"Authorization": "Bearer sesame"}}
            assert (await client("post", "/v1/load_lora_adapter", body, **sent))[0] == 200

    run(server, scenario)


@pytest.mark.parametrize("name", ["", "a b", "x" * 201, "new\nline"])
def test_names_that_are_none(server: FakeServer, name: str) -> None:
    async def scenario(client: Client) -> None:
        status, error = await client.load(name, "one")
        assert (status, error["error"]["param"]) == (400, "lora_name")

    run(server, scenario)
