"""Prompts to tokens: what is too long is refused before it is tokenized."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shimmy.errors import ContextLengthError
from shimmy.server.text import ModelText
from tests.serve.fake_engine import ByteTokenizer, FakeServer

CONTEXT = 100
#: Of the tokenizer: ``<end>``.
LONGEST = 5

Encode = Callable[[ModelText, str], Coroutine[Any, Any, list[int]]]


def _prompt(text: ModelText, words: str) -> Coroutine[Any, Any, list[int]]:
    return text.encode(words, CONTEXT)


def _chat(text: ModelText, words: str) -> Coroutine[Any, Any, list[int]]:
    return text.encode_chat([{"role": "user", "content": words}], CONTEXT)


@pytest.mark.parametrize("encode", [_prompt, _chat])
def test_what_cannot_fit_is_not_tokenized(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> list[int]:
        raise AssertionError("it was tokenized")

    monkeypatch.setattr(ByteTokenizer, "encode", never)
    with pytest.raises(ContextLengthError) as caught:
        asyncio.run(encode(FakeServer().text(), "é" * 1000))
    assert caught.value.param == "prompt"
    assert f"{CONTEXT} tokens" in caught.value.message
    assert "at least 40" in caught.value.message  # 2000 bytes by 5, and the template's own


@pytest.mark.parametrize("encode", [_prompt, _chat])
def test_what_might_fit_is_tokenized(encode: Encode) -> None:
    words = "x" * (CONTEXT * LONGEST - len("user: \n"))
    assert len(asyncio.run(encode(FakeServer().text(), words))) > CONTEXT
