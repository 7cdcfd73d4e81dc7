"""The OpenAI routes over an engine that repeats its prompt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quart.typing import TestClientProtocol as Client

from shimmy.engine.protocol import TokenEvent
from shimmy.errors import EngineError
from shimmy.server.generation import Piece
from shimmy.server.sampling import choice_seed
from shimmy.settings import Settings
from shimmy_plugins.frontends.openai.render import TEXT, new_answer
from tests.serve.fake_engine import CONTEXT, ByteTokenizer, FakeServer, chat, facts

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
#: How the fake template renders chat("hi").
ECHO = "user: hi\n"


def ask(path: str, body: dict[str, Any], server: FakeServer | None = None) -> Any:
    """The JSON of a successful answer."""
    return asyncio.run(with_client(server or FakeServer(), lambda client: _post(client, path, body)))


def events(path: str, body: dict[str, Any], server: FakeServer | None = None) -> list[str]:
    """The data of the events of a streamed answer."""

    async def post(client: Client) -> list[str]:
        response = await client.post(path, json=body | {"stream": True})
        assert response.status_code == 200
        assert response.content_type == "text/event-stream; charset=utf-8"
        frames = (await response.get_data(as_text=True)).split("\n\n")
        assert frames.pop() == ""
        assert all(frame.startswith("data: ") for frame in frames)
        return [frame.removeprefix("data: ") for frame in frames]

    return asyncio.run(with_client(server or FakeServer(), post))


def chunks(path: str, body: dict[str, Any], server: FakeServer | None = None) -> list[Any]:
    """The chunks of a stream that ends as it should."""
    *frames, last = events(path, body, server)
    assert last == "[DONE]"
    return [json.loads(frame) for frame in frames]


async def with_client(server: FakeServer, use: Callable[[Client], Awaitable[Any]]) -> Any:
    async with server.app.test_app() as running:
        return await use(running.test_client())


async def _post(client: Client, path: str, body: dict[str, Any]) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, await response.get_data()
    return await response.get_json()


def test_chat() -> None:
    answer = ask(CHAT, chat("hi"))
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "echo"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["system_fingerprint"].endswith("-echo-f32-kv-f32")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ECHO, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": len(ECHO),
        "completion_tokens": len(ECHO),
        "total_tokens": 2 * len(ECHO),
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_chat_stream() -> None:
    first, *rest = chunks(CHAT, chat("hi"))
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "usage" not in first
    assert len({chunk["id"] for chunk in (first, *rest)}) == 1
    *deltas, last = [chunk["choices"][0] for chunk in rest]
    assert "".join(choice["delta"]["content"] for choice in deltas) == ECHO
    assert {choice["finish_reason"] for choice in deltas} == {None}
    assert last["delta"] == {}
    assert last["finish_reason"] == "stop"


def test_chat_stream_with_usage() -> None:
    *others, last = chunks(CHAT, chat("hi", stream_options={"include_usage": True}))
    assert {chunk["usage"] for chunk in others} == {None}
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(ECHO)


def test_completion() -> None:
    answer = ask(COMPLETIONS, {"model": "echo", "prompt": "wörld"})
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "wörld", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"]["prompt_tokens"] == 6


def test_completion_stream() -> None:
    found = chunks(COMPLETIONS, {"model": "echo", "prompt": "wörld"})
    assert "".join(chunk["choices"][0]["text"] for chunk in found) == "wörld"
    assert [chunk["choices"][0]["finish_reason"] for chunk in found][-2:] == [None, "stop"]
    assert "�" not in json.dumps(found, ensure_ascii=False)


def test_what_was_cached_of_each_prompt_is_told() -> None:
    servers = [FakeServer() for _ in range(3)]
    for server in servers:
        server.engine.reused = 3
    body = {"prompt": ["abcd", "efgh"], "n": 2, "cache_salt": "ours"}
    assert ask(COMPLETIONS, body, servers[0])["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}
    *_, last = chunks(COMPLETIONS, {**body, "stream_options": {"include_usage": True}}, servers[1])
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}
    assert ask(CHAT, chat("hi"), servers[2])["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert [server.engine.salts for server in servers] == [["ours"] * 4, ["ours"] * 4, [""]]


def test_completions_default_to_16_tokens_and_chats_to_what_fits() -> None:
    completion = ask(COMPLETIONS, {"prompt": "x" * 50})
    assert completion["usage"]["completion_tokens"] == 16
    assert completion["choices"][0]["finish_reason"] == "length"
    server = FakeServer()
    server.engine.endless = True
    assert ask(CHAT, chat("hi"), server)["usage"]["total_tokens"] == CONTEXT


def test_several_prompts_and_several_choices() -> None:
    server = FakeServer()
    answer = ask(COMPLETIONS, {"prompt": ["ab", "cd"], "n": 2, "seed": 5}, server)
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [
        (0, "ab"),
        (1, "ab"),
        (2, "cd"),
        (3, "cd"),
    ]
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["usage"]["completion_tokens"] == 8
    assert sorted(s.seed for s in server.engine.samplings) == sorted([5, choice_seed(5, 1)] * 2)


def test_several_choices_stream_side_by_side() -> None:
    texts = {0: "", 1: ""}
    finished = set()
    for chunk in chunks(CHAT, chat("hi", n=2)):
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            finished.add(choice["index"])
    assert texts == {0: ECHO, 1: ECHO}
    assert finished == {0, 1}


def test_token_ids_as_prompt() -> None:
    assert ask(COMPLETIONS, {"prompt": [104, 105]})["choices"][0]["text"] == "hi"


@pytest.mark.parametrize("step", [1, 4, 100])
def test_stop_strings_end_the_answer_and_the_engine(step: int) -> None:
    server = FakeServer()
    server.engine.step = step
    answer = ask(COMPLETIONS, {"prompt": "one two three", "stop": ["x", "two"]}, server)
    assert answer["choices"][0]["text"] == "one "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len("one two")
    assert server.engine.active == 0


def test_stops_of_the_template_end_chats_only() -> None:
    answer = ask(CHAT, chat("one two three", stop="three"), FakeServer(template_stops=("two",)))
    assert answer["choices"][0]["message"]["content"] == "user: one "
    answer = ask(COMPLETIONS, {"prompt": "one two"}, FakeServer(template_stops=("two",)))
    assert answer["choices"][0]["text"] == "one two"


def test_a_stop_string_is_never_shown_in_part() -> None:
    found = chunks(COMPLETIONS, {"prompt": "one two tw", "stop": "two"})
    assert [chunk["choices"][0]["text"] for chunk in found] == ["o", "n", "e", " ", ""]


def test_steps_that_come_together_are_one_event() -> None:
    server = FakeServer()
    server.engine.step = 100
    found = chunks(COMPLETIONS, {"prompt": "hello"}, server)
    assert [chunk["choices"][0]["text"] for chunk in found] == ["hello"]


def test_chat_logprobs() -> None:
    choice = ask(CHAT, chat("hi", logprobs=True, top_logprobs=2, max_tokens=1))["choices"][0]
    [token] = choice["logprobs"]["content"]
    assert token["token"] == "u"
    assert token["bytes"] == [117]
    assert token["logprob"] == -0.5
    assert [top["token"] for top in token["top_logprobs"]] == ["a", "b"]


def test_streamed_logprobs_add_up() -> None:
    found = chunks(CHAT, chat("hi", logprobs=True))
    parts = [chunk["choices"][0]["logprobs"] for chunk in found]
    assert "".join(token["token"] for part in parts if part for token in part["content"]) == ECHO


def test_completion_logprobs() -> None:
    logprobs = ask(COMPLETIONS, {"prompt": "hi", "logprobs": 1})["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["h", "i"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5]
    assert logprobs["text_offset"] == [0, 1]
    assert list(logprobs["top_logprobs"][0]) == ["a"]


def test_completion_logprobs_spell_parts_of_characters() -> None:
    """Each byte is a token here: as texts, both of this character would be one key."""
    logprobs = ask(COMPLETIONS, {"prompt": "a\u4e2d", "logprobs": 1})["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", r"bytes:\xe4", r"bytes:\xb8", r"bytes:\xad"]


def test_completion_alternatives_that_are_parts_of_characters_stay_apart() -> None:
    tops = [(0xE4, -0.5), (0xB8, -1.0)]
    piece = Piece("", [TokenEvent(0, 0xE4, None, -0.5, tops)], 1, "stop")
    answer = new_answer(TEXT, "echo", facts(), ByteTokenizer())
    choice = TEXT.choice(0, [piece], answer)
    assert choice["logprobs"]["top_logprobs"] == [{r"bytes:\xe4": -0.5, r"bytes:\xb8": -1.0}]


def test_messages_reach_the_template() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
    ]
    answer = ask(CHAT, {"messages": messages})
    assert answer["choices"][0]["message"]["content"] == "system: be brief\nuser: a\nb\nassistant: \n"


def test_any_content_type_is_json() -> None:
    async def post(client: Client) -> int:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return (await client.post(CHAT, data=json.dumps(chat("hi")), headers=headers)).status_code

    assert asyncio.run(with_client(FakeServer(), post)) == 200


def test_models(tmp_path: Path) -> None:
    server = FakeServer("echo", "org/two")
    server.catalog.cards["echo"] = replace(server.catalog.cards["echo"], path=tmp_path)
    server.catalog.own["gpt-4"] = server.catalog.cards["echo"]
    server.catalog.further["org/two"] = ["two"]

    async def get(client: Client) -> tuple[Any, Any]:
        listed = await (await client.get("/v1/models")).get_json()
        return listed, await (await client.get("/v1/models/org/two")).get_json()

    listed, one = asyncio.run(with_client(server, get))
    assert [model["id"] for model in listed["data"]] == ["echo", "org/two", "gpt-4"]
    assert listed["data"][2] == listed["data"][0] | {"id": "gpt-4"}
    assert [model["aliases"] for model in listed["data"]] == [[], ["two"], []]
    assert listed["data"][0]["created"] == int(tmp_path.stat().st_mtime)
    assert listed["data"][1].items() <= one.items()
    assert one["object"] == "model"


def test_a_model_that_is_loaded_tells_its_defaults() -> None:
    server = FakeServer(settings=Settings(sampling={"top_k": 7}))

    async def get(client: Client) -> tuple[Any, Any]:
        before = await (await client.get("/v1/models/echo")).get_json()
        await client.post(CHAT, json=chat("hi"))
        return before, await (await client.get("/v1/models/echo")).get_json()

    before, after = asyncio.run(with_client(server, get))
    assert (before["context"], before["sampling_defaults"], before["chat_template"]) == (None, None, None)
    assert after["context"] == CONTEXT
    assert after["sampling_defaults"] == {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 7,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
    }
    assert after["chat_template"] == {"name": "own", "reason": "it is a test."}
    assert server.engine.samplings[0].top_k == 7


def test_an_error_in_a_stream_is_its_last_event() -> None:
    server = FakeServer()
    server.engine.fails = (3, EngineError("the engine failed."))
    *_, before, last = events(CHAT, chat("hi"), server)
    assert "error" not in before
    assert json.loads(last)["error"] == {
        "message": "the engine failed.",
        "type": "server_error",
        "param": None,
        "code": "engine_error",
    }


def test_a_bug_in_a_stream_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    server.engine.fails = (3, ValueError("secret prompt"))
    last = events(CHAT, chat("hi"), server)[-1]
    assert json.loads(last)["error"]["code"] == "internal_error"
    assert "secret" not in last + caplog.text
    assert "ValueError" in caplog.text
