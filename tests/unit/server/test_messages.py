"""Chat messages on their way to a template."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shimmy.errors import RequestError
from shimmy.server.messages import Message, template_messages


def convert(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return template_messages(msgspec.convert(list(messages), list[Message]))


def test_contents_become_texts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert convert(
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [], "refusal": None},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb", "name": "ann"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("message", "param", "word"),
    [
        ({"role": "boss", "content": "x"}, "messages[1].role", "assistant"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content[0]", "image_url"),
        ({"role": "user"}, "messages[1].content", "missing"),
        ({"role": "developer", "content": None}, "messages[1].content", "missing"),
        ({"role": "tool", "tool_call_id": "c1"}, "messages[1].content", "missing"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0]", "without"),
        ({"role": "user", "content": "x", "images": ["aGk="]}, "messages[1].images", "not supported"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls", "not supported"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[1].function_call", "not supported"),
        ({"role": "assistant", "refusal": "no"}, "messages[1].refusal", "not supported"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio", "not supported"),
    ],
)
def test_what_cannot_be_given_to_a_model(message: dict[str, Any], param: str, word: str) -> None:
    with pytest.raises(RequestError, match=word) as caught:
        convert({"role": "user", "content": "hi"}, message)
    assert caught.value.param == param
