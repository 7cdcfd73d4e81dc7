"""What other servers' requests may say is refused by every frontend alike, unless it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from shimmy.errors import RequestError
from shimmy.server.body import read_request
from shimmy_plugins.frontends.native.schema import RULES, GenerateRequest
from shimmy_plugins.frontends.openai.schema import CHAT_RULES, TEXT_RULES, ChatRequest, CompletionRequest

FRONTENDS: dict[str, Any] = {
    "chat": ({"messages": [{"role": "user", "content": "hi"}]}, ChatRequest, CHAT_RULES),
    "completion": ({"prompt": "hi"}, CompletionRequest, TEXT_RULES),
    "native": ({"prompt": "hi"}, GenerateRequest, RULES),
}

#: Field -> a value that would change an answer.
CHANGING: dict[str, Any] = {
    "adapter": "x",
    "allowed_token_ids": [5],
    "bad_words": ["a"],
    "banned_tokens": ["5"],
    "best_of": 2,
    "context": [1],
    "do_sample": False,
    "documents": [{"a": "b"}],
    "ebnf": "a",
    "echo": True,
    "enable_thinking": True,
    "include_stop_str_in_output": True,
    "length_penalty": 2,
    "max_new_tokens": 1,
    "modalities": ["audio"],
    "n_predict": 1,
    "n_probs": 3,
    "num_beams": 3,
    "penalize_nl": False,
    "prompt_logprobs": 1,
    "random_seed": 3,
    "reasoning": {"effort": "low"},
    "regex": "a",
    "stop_sequences": ["a"],
    "template": "x",
    "think": True,
    "thinking": {"type": "enabled"},
    "truncate_prompt_tokens": 3,
    "typ_p": 0.5,
    "use_beam_search": True,
    "verbosity": "low",
}

NEUTRAL: dict[str, Any] = {
    "adapter": None,
    "best_of": 1,
    "do_sample": True,
    "echo": False,
    "modalities": ["text"],
    "n_predict": -1,
    "num_beams": 1,
    "thinking": {"type": "disabled"},
    "typ_p": 1.0,
}


def read(frontend: str, fields: dict[str, Any]) -> tuple[str, ...]:
    base, kind, rules = FRONTENDS[frontend]
    return read_request(base | fields, kind, rules, strict=False).ignored


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("name", CHANGING)
def test_a_field_that_would_change_the_answer_is_refused(frontend: str, name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is not supported") as caught:
        read(frontend, {name: CHANGING[name]})
    assert caught.value.param == name


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("name", NEUTRAL)
def test_a_value_that_changes_nothing_is_accepted(frontend: str, name: str) -> None:
    assert read(frontend, {name: NEUTRAL[name]}) == ()


@pytest.mark.parametrize("frontend", ["chat", "completion"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("num_predict", 1), ("num_ctx", 100), ("options", {"temperature": 0}), ("system", "be"), ("raw", True)],
)
def test_what_only_the_native_api_takes(frontend: str, name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} is not supported"):
        read(frontend, {name: value})


@pytest.mark.parametrize(
    ("frontend", "fields"),
    [
        ("chat", {"max_tokens": 2, "max_completion_tokens": 5}),
        ("native", {"max_tokens": 5, "num_predict": 2}),
        ("native", {"options": {"max_tokens": 5, "num_predict": 2}}),
    ],
)
def test_two_lengths_that_differ(frontend: str, fields: dict[str, Any]) -> None:
    base, kind, rules = FRONTENDS[frontend]
    request = read_request(base | fields, kind, rules, strict=False).request
    with pytest.raises(RequestError, match=r"max_tokens is \d, but .*another name for it, is \d"):
        _ = request.answer_tokens
