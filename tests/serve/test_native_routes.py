"""The native API over an engine that repeats its prompt."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest

from shimmy.errors import EngineError
from shimmy.server.reply import IGNORED_HEADER, SEED_HEADER
from shimmy.settings import Settings
from tests.serve.fake_engine import CONTEXT, FakeServer

PATH = "/api/generate"


def post_all(server: FakeServer | None, *bodies: Any, **options: Any) -> list[tuple[int, str, Any]]:
    """Status, text and headers of each answer."""

    async def send() -> list[tuple[int, str, Any]]:
        answers = []
        async with (server or FakeServer()).app.test_app() as running:
            for body in bodies:
                sent = {"data": json.dumps(body), **options}
                response = await running.test_client().post(PATH, **sent)
                text = await response.get_data(as_text=True)
                answers.append((response.status_code, text, response.headers))
        return answers

    return asyncio.run(send())


def post(body: Any, server: FakeServer | None = None, **options: Any) -> tuple[int, str, Any]:
    return post_all(server, body, **options)[0]


def ask_all(server: FakeServer | None, *bodies: dict[str, Any]) -> list[Any]:
    """The JSON of successful answers."""
    answers = post_all(server, *({"model": "echo"} | body for body in bodies))
    assert {status for status, _, _ in answers} == {200}, answers
    return [json.loads(text) for _, text, _ in answers]


def ask(server: FakeServer | None = None, **fields: Any) -> Any:
    return ask_all(server, fields)[0]


def refused(server: FakeServer | None = None, **fields: Any) -> Any:
    status, text, _ = post(fields, server)
    assert status == 400
    return json.loads(text)


def events(server: FakeServer | None = None, **fields: Any) -> list[str]:
    status, text, headers = post({"model": "echo", "stream": True} | fields, server)
    assert status == 200
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *parts, rest = text.split("\n\n")
    assert rest == ""
    return [part.removeprefix("data: ") for part in parts]


def test_a_prompt_is_continued_as_written() -> None:
    answer = ask(prompt="wörld")
    assert answer["response"] == "wörld"
    assert (answer["model"], answer["done"], answer["done_reason"]) == ("echo", True, "stop")
    assert answer["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 6,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_what_ollama_clients_read() -> None:
    answer = ask(prompt="hi", options={"num_predict": 1})
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (2, 1)
    assert answer["done_reason"] == "length"
    durations = [answer[f"{part}_duration"] for part in ("load", "prompt_eval", "eval")]
    assert all(isinstance(duration, int) and duration >= 0 for duration in durations)
    assert answer["total_duration"] == sum(durations)
    assert datetime.fromisoformat(answer["created_at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"prompt": "hi"}, "hi"),
        ({"prompt": "hi", "raw": True}, "hi"),
        ({"prompt": "hi", "system": ""}, "hi"),
        ({"prompt": "hi", "raw": False}, "user: hi\n"),
        ({"prompt": "hi", "system": "be brief"}, "system: be brief\nuser: hi\n"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "user: hi\n"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "system": "be"},
            "system: be\nuser: hi\n",
        ),
    ],
)
def test_prompts_messages_and_systems(fields: dict[str, Any], prompt: str) -> None:
    assert ask(**fields)["response"] == prompt


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({}, "prompt", "neither"),
        ({"prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}, "prompt", "both"),
        ({"prompt": "hi", "system": "be brief", "raw": True}, "raw", "system"),
        ({"messages": [{"role": "user", "content": "hi"}], "raw": True}, "raw", "messages"),
        ({"messages": [{"role": "system", "content": "a"}], "system": "b"}, "system", "begins"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": 5}, "prompt", "int"),
        ({"prompt": "hi", "num_predict": 0}, "num_predict", "at least 1"),
        ({"prompt": "hi", "max_tokens": 0}, "max_tokens", "0"),
        ({"prompt": "hi", "options": {"temperature": 3}}, "options.temperature", "3"),
        ({"prompt": "hi", "options": {"mirostat": 2}}, "options.mirostat", "not supported"),
        ({"prompt": "hi", "options": {"num_ctx": 4096}}, "num_ctx", str(CONTEXT)),
        ({"prompt": "hi", "mirostat": 2}, "mirostat", "not supported"),
        ({"prompt": "hi", "images": ["aGk="]}, "images", "not supported"),
        ({"prompt": "hi", "format": "json"}, "format", "not supported"),
        ({"prompt": "hi", "suffix": "end"}, "suffix", "not supported"),
        ({"prompt": "hi", "template": "{{ .Prompt }}"}, "template", "not supported"),
        ({"prompt": "hi", "context": [1]}, "context", "not supported"),
        ({"prompt": "hi", "think": True}, "think", "not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str, word: str) -> None:
    error = refused(**fields)
    assert error["param"] == param
    assert word in error["error"]


def test_neutral_values_and_matters_of_the_machine_are_accepted() -> None:
    machine = {"num_thread": 4, "num_ctx": 100, "mirostat": 0, "repeat_last_n": -1, "tfs_z": 1.0}
    neutral = {"images": [], "format": "", "suffix": "", "template": None, "context": [], "think": False}
    server = FakeServer(settings=Settings(strict=True))
    assert ask(server, prompt="hi", keep_alive="5m", options=machine, **neutral)["response"] == "hi"


def test_options_flat_and_nested() -> None:
    server = FakeServer()
    nested = {"temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.1, "seed": 7, "stop": ["x"]}
    penalties = {"repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    both = nested | penalties
    ask_all(
        server,
        {"prompt": "hi", "options": both},
        {"prompt": "hi", **both},
        {"prompt": "hi", "temperature": 0.5, "options": both | {"temperature": 1.5}},
    )
    first, *others = server.engine.samplings
    assert (first.temperature, first.top_k, first.top_p, first.min_p, first.seed) == (0.5, 40, 0.9, 0.1, 7)
    assert (first.repeat_penalty, first.presence_penalty, first.frequency_penalty) == (1.1, 0.5, -0.5)
    assert others == [first, first]


def test_stops() -> None:
    assert ask(prompt="one two", options={"stop": ["two"]})["response"] == "one "
    assert ask(prompt="one two", stop="w", options={"stop": ["two"]})["response"] == "one t"
    bodies = {"prompt": "one two", "raw": False}, {"prompt": "one two"}
    answers = ask_all(FakeServer(template_stops=("two",)), *bodies)
    assert [answer["response"] for answer in answers] == ["user: one ", "one two"]


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"prompt": "hi"}, CONTEXT - 2),
        ({"prompt": "hi", "max_tokens": 3}, 3),
        ({"prompt": "hi", "options": {"num_predict": 4}}, 4),
        ({"prompt": "hi", "max_tokens": 3, "options": {"num_predict": 4}}, 3),
        ({"prompt": "hi", "num_predict": -1}, CONTEXT - 2),
        ({"prompt": "hi", "num_predict": -2, "options": {"num_predict": 4}}, CONTEXT - 2),
        ({"prompt": "hi", "raw": False}, CONTEXT - 9),
    ],
)
def test_lengths(fields: dict[str, Any], tokens: int) -> None:
    server = FakeServer()
    server.engine.endless = True
    answer = ask(server, **fields)
    assert (answer["eval_count"], answer["done_reason"]) == (tokens, "length")


def test_an_answer_to_a_raw_prompt_is_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shimmy_plugins.frontends.native.answer.RAW_TOKENS", 5)
    server = FakeServer()
    server.engine.endless = True
    bodies = {"prompt": "hi"}, {"prompt": "hi", "num_predict": -1}, {"prompt": "hi", "raw": False}
    counts = [answer["eval_count"] for answer in ask_all(server, *bodies)]
    assert counts == [5, CONTEXT - 2, CONTEXT - 9]


def test_stream() -> None:
    *tokens, last, done = events(prompt="wörld", seed=3)
    assert done == "[DONE]"
    frames = [json.loads(token) for token in tokens]
    assert all(list(frame) == ["token"] for frame in frames)
    assert "".join(frame["token"] for frame in frames) == "wörld"
    summary = json.loads(last)
    assert (summary["done"], summary["done_reason"], summary["seed"]) == (True, "stop", 3)
    assert summary["usage"]["completion_tokens"] == 6
    assert "response" not in summary


@pytest.mark.parametrize("error", [EngineError("the engine failed."), ValueError("secret prompt")])
def test_an_error_in_a_stream_is_its_last_frame(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    server.engine.fails = (2, error)
    *_, before, last = events(server, prompt="hello")
    assert "token" in json.loads(before)
    frame = json.loads(last)
    assert set(frame) == {"error", "code", "param"}
    assert frame["code"] in ("engine_error", "internal_error")
    assert "secret" not in last + caplog.text


def test_streams_are_refused_before_they_begin() -> None:
    assert post({"prompt": "x" * 300, "stream": True})[0] == 400
    assert post({"prompt": "hi", "model": "ecko", "stream": True})[0] == 404


def test_the_seed_is_told() -> None:
    server = FakeServer()
    _, text, headers = post({"prompt": "hi"}, server)
    told = json.loads(text)["seed"]
    assert headers[SEED_HEADER] == str(told)
    assert server.engine.samplings[0].seed == told
    assert ask(prompt="hi", seed=11)["seed"] == 11


def test_unknown_fields_are_told() -> None:
    body = {"prompt": "hi", "temprature": 1, "options": {"top_kk": 1}}
    _, text, headers = post(body)
    assert headers[IGNORED_HEADER] == "temprature, options.top_kk"
    assert json.loads(text)["ignored_fields"] == ["temprature", "options.top_kk"]
    _, text, headers = post({"prompt": "hi"})
    assert IGNORED_HEADER not in headers
    assert "ignored_fields" not in json.loads(text)
    error = refused(FakeServer(settings=Settings(strict=True)), **body)
    assert "Did you mean 'temperature'" in error["error"]


def test_defaults_of_file_and_settings() -> None:
    server = FakeServer(settings=Settings(sampling={"top_p": 0.5}))
    server.metadata = {"general.sampling.temp": 0.6, "general.sampling.top_p": 0.9}
    ask_all(server, {"prompt": "hi"}, {"prompt": "hi", "temperature": 0})
    found = [(sampling.temperature, sampling.top_p) for sampling in server.engine.samplings]
    assert found == [(0.6, 0.5), (0, 0.5)]


@pytest.mark.parametrize(
    "kind", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"]
)
def test_any_content_type_is_json(kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert post({"prompt": "hi"}, headers=headers)[0] == 200


@pytest.mark.parametrize("data", ["", "{", "[1]", '"text"', b"\xff", "model=m&prompt=hi", "[" * 100_000])
def test_other_than_json_objects_are_refused(data: Any) -> None:
    status, text, _ = post(None, data=data)
    assert status == 400
    assert "JSON" in json.loads(text)["error"]


def test_models() -> None:
    server = FakeServer("echo", "org/two")
    server.catalog.own["gpt-4"] = server.catalog.cards["echo"]

    async def get() -> Any:
        async with server.app.test_app() as running:
            client = running.test_client()
            await client.post(PATH, json={"model": "echo", "prompt": "hi"})
            return await (await client.get("/api/models")).get_json()

    listed = asyncio.run(get())
    states = [(row["name"], row["state"]) for row in listed["models"]]
    assert states == [("echo", "ready"), ("org/two", None), ("gpt-4", "ready")]
    assert listed["models"][0]["size_bytes"] == 1000
