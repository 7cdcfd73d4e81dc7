"""OpenAI request bodies: what is accepted, and how a refusal names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shimmy.errors import RequestError
from shimmy.server.body import read_object, read_request
from shimmy_plugins.frontends.openai.schema import CHAT_RULES, TEXT_RULES, ChatRequest, CompletionRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def parse(body: dict[str, Any], kind: Any) -> Any:
    rules = CHAT_RULES if kind is ChatRequest else TEXT_RULES
    request = read_request(read_object(json.dumps(body)), kind, rules, strict=False).request
    request.check()
    return request


def chat(**fields: Any) -> ChatRequest:
    return parse(CHAT | fields, ChatRequest)


def completion(**fields: Any) -> CompletionRequest:
    return parse({"model": "m", "prompt": "hi"} | fields, CompletionRequest)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": 2.5}, "temperature", ["2.5", "<= 2.0"]),
        ({"temperature": "hot"}, "temperature", ["float", "str"]),
        ({"temperature": True}, "temperature", ["float", "bool"]),
        ({"top_p": -0.1}, "top_p", ["-0.1", ">= 0.0"]),
        ({"max_tokens": 0}, "max_tokens", ["0", ">= 1"]),
        ({"max_tokens": 1.5}, "max_tokens", ["int", "float"]),
        ({"max_completion_tokens": -1}, "max_completion_tokens", ["-1"]),
        ({"presence_penalty": 3}, "presence_penalty", ["3", "2"]),
        ({"frequency_penalty": -3}, "frequency_penalty", ["-3", "-2"]),
        ({"n": 0}, "n", ["0", ">= 1"]),
        ({"seed": 2**64}, "seed", []),
        ({"stop": ["x"] * 17}, "stop", ["16"]),
        ({"stop": ""}, "stop", ["length >= 1"]),
        ({"stop": [""]}, "stop[0]", ["length >= 1"]),
        ({"logit_bias": {"5": 101}}, "logit_bias", ["100"]),
        ({"top_logprobs": 21}, "top_logprobs", ["21", "20"]),
        ({"stream": "yes"}, "stream", ["bool", "str"]),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", ["bool", "int"]),
        ({"messages": []}, "messages", ["length >= 1"]),
        ({"messages": "hi"}, "messages", ["array", "str"]),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", ["missing"]),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", ["int"]),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], param: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert caught.value.param == param
    for word in (param, *words):
        assert word in caught.value.message


def test_missing_fields_are_named() -> None:
    with pytest.raises(RequestError, match="messages is missing"):
        parse({"model": "m"}, ChatRequest)
    with pytest.raises(RequestError, match="prompt is missing"):
        parse({}, CompletionRequest)


@pytest.mark.parametrize(
    ("name", "neutral", "changing"),
    [
        ("tools", [], [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto", "required"),
        ("functions", [], [{"name": "f"}]),
        ("response_format", {"type": "text"}, {"type": "json_object"}),
        ("modalities", ["text"], ["text", "audio"]),
        ("audio", None, {"voice": "alloy"}),
        ("echo", False, True),
        ("best_of", 1, 2),
        ("suffix", "", "the end"),
        ("grammar", "", "root ::= x"),
    ],
)
def test_fields_that_would_change_the_answer(name: str, neutral: Any, changing: Any) -> None:
    chat(**{name: neutral})
    chat(**{name: None})
    with pytest.raises(RequestError, match=f"{name} is not supported") as caught:
        chat(**{name: changing})
    assert caught.value.param == name


def test_null_is_not_given_and_unknown_fields_are_accepted() -> None:
    nulls = dict.fromkeys(["temperature", "max_tokens", "stop", "stream", "seed", "logit_bias", "n"])
    assert chat(**nulls) == chat()
    assert chat(user="me", metadata={"a": "b"}, store=False, something_new=[1]) == chat()


def test_stops_lengths_and_log_probabilities() -> None:
    assert chat(stop="a").stops == ("a",)
    assert chat(stop=["a", "b"]).stops == ("a", "b")
    assert chat().stops == ()
    assert chat(max_tokens=7, max_completion_tokens=7).answer_tokens == 7
    assert chat(max_tokens=5).answer_tokens == 5
    assert chat(logprobs=True, top_logprobs=3).alternatives == 3
    assert chat(logprobs=True).alternatives == 0
    assert chat(logprobs=False, top_logprobs=0).alternatives is None
    assert completion(logprobs=0).alternatives == 0


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ["hi"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts(prompt: Any, prompts: list[Any]) -> None:
    assert completion(prompt=prompt).prompts == prompts


def test_mixed_prompts_are_refused() -> None:
    with pytest.raises(RequestError, match="mixes"):
        _ = completion(prompt=["a", 1]).prompts


def test_found_texts_are_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        chat(messages=[{"role": "user", "content": {"my": "secret"}}])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {}, "stream": False}, "stream_options"),
        ({"prompt": "hi"}, "prompt"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize("fields", [{"top_logprobs": 2}, {"messages": [{"role": "user"}]}])
def test_fields_of_chats_are_refused_in_completions(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        completion(**fields)
    assert [caught.value.param] == [*fields]


def test_both_kinds_know_both_names_of_the_length() -> None:
    for ask in (chat, completion):
        assert ask(max_tokens=5).answer_tokens == 5
        assert ask(max_completion_tokens=6).answer_tokens == 6


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": ["a"] * 1500, "n": 128}, "prompt"), ({"prompt": ["a"] * 65, "n": 2}, "n")],
)
def test_too_many_choices(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        completion(**fields)
    assert caught.value.param == param
    assert str(len(fields["prompt"]) * fields["n"]) in caught.value.message
    completion(prompt=["a"] * 64, n=2)
