"""Adapters over HTTP, on an engine that repeats its prompt: asked, mixed, applied to everyone, unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from shimmy.errors import AdapterError
from shimmy.settings import Settings
from tests.serve.fake_engine import FakeServer
from tests.serve.lora_client import REMOTE, Client, make_server, run


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return make_server(tmp_path)


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
            (
                [{"name": "two"}, {"name": "one"}, {"name": "one"}],
                "'one' can be applied once, but lora names",
            ),
            ([{"scale": 1}], "needs a name or an id"),
            ([{"name": "one", "id": 0}], "needs a name or an id"),
            ([{"id": 7}], "no adapter with id 7"),
        ):
            status, error = await client.ask("echo", lora=wrong)
            assert status in (400, 404)
            assert problem in error["error"]
        status, error = await client.ask("other", lora=[{"name": "one"}])
        assert (status, error["error"].startswith("'one' is no adapter of 'other'")) == (400, True)
        # Before a stream begins, too.
        status, error = await client.ask("one", lora=[{"name": "one"}], stream=True)
        assert (status, "but the model has it already" in error["error"]) == (400, True)

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
            "there is no adapter with id 9. There are: 0 (one), 1 (two).",
        )
        assert (await client("post", "/lora-adapters", {"id": 1}))[0] == 400

    run(server, scenario)


def test_what_a_request_says_takes_the_place_of_factors_for_everyone(server: FakeServer) -> None:
    async def scenario(client: Client) -> None:
        for name in ("one", "two"):
            await client.load(name, name)
        first, second = sorted(server.engine.adapters)
        await client("get", "/lora-adapters")
        await client("post", "/lora-adapters", [{"id": 1, "scale": 0.25}])
        chat = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
        for said in ([], [{"id": 0, "scale": 0.5}], [{"id": 1, "scale": 0}], None):
            assert (await client.ask("echo", lora=said))[0] == 200
            assert (await client("post", "/v1/chat/completions", {**chat, "lora": said}))[0] == 200
        expected = [[], [(first, 0.5)], [], [(second, 0.25)]]
        assert server.engine.applied == [applied for applied in expected for _ in range(2)]

    run(server, scenario)


def test_an_adapter_that_is_gone_loses_its_factor(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(client: Client) -> None:
        for name in ("one", "two"):
            await client.load(name, name)
        await client("get", "/lora-adapters")
        await client("post", "/lora-adapters", [{"id": 0, "scale": 1}, {"id": 1, "scale": 0.5}])
        [second] = [v.facts.id for v in server.context.models.adapters._versions if v.card.name == "two"]
        server.context.models.adapters.end("one")
        server.engine.adapter_error = AdapterError("one: there is no such file or folder.")
        for _ in range(2):
            assert (await client.ask("echo"))[0] == 200
        assert server.engine.applied == [[(second, 0.5)]] * 2
        rows = (await client("get", "/lora-adapters"))[1]
        assert [row["scale"] for row in rows] == [0.0, 0.5]
        assert rows[0]["error"].endswith("one: there is no such file or folder.")
        assert "error" not in (await client("get", "/lora-adapters", **REMOTE))[1][0]
        assert "error" not in rows[1]
        assert caplog.text.count("'one' is no longer applied to all requests") == 1
        assert (await client.ask("one"))[0] == 400
        server.engine.adapter_error = None
        await client("post", "/lora-adapters", [{"id": 0, "scale": 1}])
        assert "error" not in (await client("get", "/lora-adapters"))[1][0]

    run(server, scenario)


def test_more_factors_than_can_be_mixed(server: FakeServer) -> None:
    cards = server.catalog.cards
    for number in range(5):
        name = f"a{number}"
        cards[name] = replace(cards["echo"], name=name, adapter=Path(name), base=cards["echo"])

    async def scenario(client: Client) -> None:
        rows = (await client("get", "/lora-adapters"))[1]
        scales = [{"id": row["id"], "scale": 1} for row in rows]
        status, error = await client("post", "/lora-adapters", scales)
        assert (status, "at most 4 can be mixed" in error["error"]["message"]) == (400, True)
        assert (await client("post", "/lora-adapters", scales[:4] + scales[:1]))[0] == 200

    run(server, scenario)


def test_other_machines_are_not_told_of_folders(server: FakeServer, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        await client.load("mine", "one")

        async def path(**options: Any) -> str:
            return (await client("get", "/lora-adapters", **options))[1][0]["path"]

        assert await path() == str(tmp_path / "one")
        assert await path(**REMOTE) == "one"
        with admin_key(server, "sesame"):
            assert await path(**REMOTE) == "one"
            headers = {"Authorization": "Bearer sesame"}
            assert await path(**REMOTE, headers=headers) == str(tmp_path / "one")

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
