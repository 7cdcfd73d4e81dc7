"""The WebSocket API on a real socket, over an engine that repeats its prompt."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shimmy.errors import EngineError
from shimmy.settings import Settings
from shimmy_plugins.frontends.websocket.connection import MOST_RUNNING
from tests.serve.fake_engine import FakeServer, eventually, fetch
from tests.serve.ws_client import RefusedError, WebSocketClient, websocket


def talk(use: Callable[[WebSocketClient], Awaitable[Any]], server: FakeServer | None = None) -> Any:
    """What ``use`` makes of a connection."""

    async def scenario() -> Any:
        async with (server or FakeServer()).listening() as listener, websocket(listener.port) as client:
            return await use(client)

    return asyncio.run(scenario())


def text_of(frames: list[Any]) -> str:
    return "".join(frame.get("token", "") for frame in frames)


@pytest.mark.parametrize("binary", [False, True])
def test_the_first_message_is_a_request(binary: bool) -> None:
    message = json.dumps({"model": "echo", "prompt": "wörld", "seed": 5})
    *tokens, last = talk(lambda client: client.ask(message.encode() if binary else message))
    assert all(list(frame) == ["token"] for frame in tokens)
    assert text_of(tokens) == "wörld"
    assert (last["done"], last["done_reason"], last["seed"]) == (True, "stop", 5)
    assert last["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 6,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_one_after_the_other() -> None:
    async def use(client: WebSocketClient) -> list[str]:
        return [text_of(await client.ask({"prompt": prompt})) for prompt in ("one", "two", "three")]

    assert talk(use) == ["one", "two", "three"]


def test_side_by_side() -> None:
    prompts = {0: "one", "b": "two", "": "three"}

    async def use(client: WebSocketClient) -> dict[Any, str]:
        for name, prompt in prompts.items():
            client.send({"id": name, "prompt": prompt * 20})
        texts = dict.fromkeys(prompts, "")
        done: set[Any] = set()
        while len(done) < len(prompts):
            frame = await client.receive()
            texts[frame["id"]] += frame.get("token", "")
            if frame.get("done"):
                done.add(frame["id"])
        return texts

    assert talk(use) == {name: prompt * 20 for name, prompt in prompts.items()}


def test_an_answer_in_one_frame() -> None:
    [frame] = talk(lambda client: client.ask({"id": 1, "prompt": "hi", "stream": False}))
    assert (frame["id"], frame["response"], frame["done"]) == (1, "hi", True)


@pytest.mark.parametrize("name", [None, 7, "x"])
def test_cancel(name: Any) -> None:
    server = FakeServer()
    server.engine.pause_after = 3
    named = {} if name is None else {"id": name}

    async def use(client: WebSocketClient) -> None:
        client.send({**named, "prompt": "hello"})
        for _ in range(3):
            assert "token" in await client.receive()
        client.send({"cancel": name})
        assert await client.receive() == {**named, "done": True, "done_reason": "cancelled"}
        await eventually(lambda: server.engine.cancelled == 1)
        assert server.engine.active == 0
        server.engine.pause_after = None
        assert text_of(await client.ask({**named, "prompt": "again"})) == "again"

    talk(use, server)


def test_cancel_right_behind_the_request() -> None:
    server = FakeServer()
    server.engine.prefill.clear()

    async def use(client: WebSocketClient) -> None:
        for _ in range(3):
            client.send({"id": 1, "prompt": "hi"})
            client.send({"cancel": 1})
            assert await client.receive() == {"id": 1, "done": True, "done_reason": "cancelled"}

    talk(use, server)


def test_cancel_while_loading() -> None:
    server = FakeServer()
    server.engine.loading.clear()

    async def use(client: WebSocketClient) -> None:
        client.send({"id": 1, "prompt": "hi"})
        await eventually(lambda: server.engine.starts)
        client.send({"cancel": 1})
        assert (await client.receive())["done_reason"] == "cancelled"
        server.engine.loading.set()

    talk(use, server)


def test_cancel_leaves_the_others_alone() -> None:
    server = FakeServer()
    server.engine.prefill.clear()

    async def use(client: WebSocketClient) -> None:
        client.send({"id": 1, "prompt": "one"})
        client.send({"id": 2, "prompt": "two"})
        await eventually(lambda: server.engine.active == 2)
        client.send({"cancel": 1})
        assert await client.receive() == {"id": 1, "done": True, "done_reason": "cancelled"}
        server.engine.prefill.set()
        frames = [await client.receive() for _ in range(4)]
        assert text_of(frames) == "two"
        assert {frame["id"] for frame in frames} == {2}

    talk(use, server)


@pytest.mark.parametrize(
    ("message", "code", "word"),
    [
        ("not json", "invalid_request", "JSON"),
        ("", "invalid_request", "JSON"),
        (b"", "invalid_request", "JSON"),
        ("[1]", "invalid_request", "object"),
        ({"prompt": "hi", "id": [1]}, "invalid_request", "id"),
        ({"prompt": "hi", "id": True}, "invalid_request", "id"),
        ({"prompt": "hi", "temperature": 9}, "invalid_request", "temperature"),
        ({"prompt": "hi", "model": "ecko"}, "model_not_found", "echo"),
        ({"prompt": "x" * 300}, "context_length_exceeded", "300"),
        ({"cancel": "nobody"}, "invalid_id", "nobody"),
        ({"cancel": None}, "invalid_id", "without"),
        ({"cancel": {}}, "invalid_request", "id"),
    ],
)
def test_what_is_wrong_is_told_and_the_connection_lives_on(message: Any, code: str, word: str) -> None:
    async def use(client: WebSocketClient) -> None:
        [frame] = await client.ask(message)
        assert frame["code"] == code
        assert word in frame["error"]
        assert text_of(await client.ask({"prompt": "hi"})) == "hi"

    talk(use)


def test_errors_carry_the_id() -> None:
    server = FakeServer()
    server.engine.fails = (2, EngineError("the engine failed."))
    *_, last = talk(lambda client: client.ask({"id": "a", "prompt": "hello"}), server)
    assert last == {"id": "a", "error": "the engine failed.", "code": "engine_error", "param": None}


def test_bugs_tell_nothing_of_themselves(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    server.engine.fails = (2, ValueError("secret prompt"))
    *_, last = talk(lambda client: client.ask({"prompt": "hello"}), server)
    assert last["code"] == "internal_error"
    assert "secret" not in last["error"] + caplog.text


def test_an_id_is_taken_while_its_request_runs() -> None:
    server = FakeServer()
    server.engine.prefill.clear()

    async def use(client: WebSocketClient) -> None:
        client.send({"id": 1, "prompt": "hi"})
        [frame] = await client.ask({"id": 1, "prompt": "hi"})
        assert (frame["id"], frame["code"]) == (1, "invalid_id")
        server.engine.prefill.set()
        assert (await client.receive())["token"] == "h"

    talk(use, server)


def test_requests_of_a_connection_are_limited() -> None:
    server = FakeServer()
    server.engine.prefill.clear()

    async def use(client: WebSocketClient) -> None:
        for name in range(MOST_RUNNING):
            client.send({"id": name, "prompt": "hi"})
        [frame] = await client.ask({"id": MOST_RUNNING, "prompt": "hi"})
        assert str(MOST_RUNNING) in frame["error"]

    talk(use, server)


def test_going_away_cancels_everything() -> None:
    server = FakeServer()
    server.engine.prefill.clear()

    async def scenario() -> None:
        async with server.listening() as listener:
            async with websocket(listener.port) as client:
                for name in range(3):
                    client.send({"id": name, "prompt": "hi"})
                await eventually(lambda: server.engine.active == 3)
            await eventually(lambda: server.engine.active == 0)
        assert server.engine.cancelled == 3

    asyncio.run(scenario())


def test_a_server_that_stops_says_goodbye() -> None:
    server = FakeServer()
    server.engine.prefill.clear()

    async def use(client: WebSocketClient) -> None:
        client.send({"id": 1, "prompt": "hi"})
        await eventually(lambda: server.engine.active == 1)
        draining = asyncio.create_task(server.context.models.drain(60))
        await asyncio.sleep(0)
        server.engine.prefill.set()
        frames = [await client.receive() for _ in range(3)]
        assert text_of(frames) == "hi"
        assert await client.receive() is None
        await draining

    talk(use, server)


def test_unknown_fields_are_told_in_the_last_frame() -> None:
    *_, last = talk(lambda client: client.ask({"prompt": "hi", "colour": 1}))
    assert last["ignored_fields"] == ["colour"]
    server = FakeServer(settings=Settings(strict=True))
    [frame] = talk(lambda client: client.ask({"id": 1, "prompt": "hi", "colour": 1}), server)
    assert "colour" in frame["error"]


def _open(settings: Settings | None = None, path: str = "/ws/generate", **options: Any) -> Any:
    """The chosen subprotocol, or status and body of the refusal."""
    server = FakeServer(settings=settings)

    async def scenario() -> Any:
        async with server.listening() as listener:
            try:
                async with websocket(listener.port, path, **options) as client:
                    assert text_of(await client.ask({"prompt": "hi"})) == "hi"
                    return client.subprotocol
            except RefusedError as error:
                return error.status, json.loads(error.body)

    return asyncio.run(scenario())


def test_strangers_are_refused() -> None:
    status, body = _open(Origin="https://evil.example")
    assert (status, body["code"]) == (403, "forbidden")


def test_keys() -> None:
    settings = Settings(api_key="right")
    offered = base64.urlsafe_b64encode(b"right").decode().rstrip("=")
    status, body = _open(settings)
    assert (status, body["code"]) == (401, "invalid_api_key")
    assert _open(settings, Authorization="Bearer right") is None
    assert _open(settings, subprotocols=["shimmy", f"shimmy.key.{offered}"]) == "shimmy"
    assert _open(settings, path="/ws/generate?api_key=right")[0] == 401


def test_no_subprotocol_is_made_up() -> None:
    assert _open() is None
    assert _open(subprotocols=["graphql-ws"]) is None


def test_unknown_paths() -> None:
    status, body = _open(path="/ws/genrate")
    assert (status, body["code"]) == (404, "route_not_found")


def test_http_is_told_to_open_a_websocket() -> None:
    async def scenario() -> tuple[int, str]:
        async with FakeServer().listening() as listener:
            return await fetch(listener, "GET", "/ws/generate")

    status, body = asyncio.run(scenario())
    assert status == 426
    assert json.loads(body)["code"] == "wrong_protocol"
