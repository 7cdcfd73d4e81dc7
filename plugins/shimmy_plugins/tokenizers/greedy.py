"""Greedy longest match over bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from shimmy.errors import TokenizerError
from shimmy.text.tokenizer import MARK, Tokenizer
from shimmy.text.vocabulary import CONTROL_TYPES, TokenType, Vocabulary, read_vocabulary
from shimmy_plugins.tokenizers.base import VocabularyTokenizer, without_surrogates


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file whose ``tokenizer.ggml.model`` is "rwkv"."""
    return GreedyTokenizer(read_vocabulary(metadata))


class GreedyTokenizer(VocabularyTokenizer):
    """Takes the longest token that the rest of the text begins with, again and again."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary, _unescaped)
        self._ids = {
            self.token_bytes(token): token
            for token, kind in enumerate(vocabulary.types)
            if kind in (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.BYTE)
        }
        self._ids.pop(b"", None)
        self._lengths = _lengths_by_beginning(self._ids)
        self._controls = vocabulary.ids(*CONTROL_TYPES)
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def _encode_special(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in filter(None, self._control.split(text)):
            if part in self._controls:
                ids.append(self._controls[part])
            else:
                ids += self._encode_plain(part.replace(MARK, ""))
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        data = without_surrogates(text).encode()
        ids: list[int] = []
        place = 0
        while place < len(data):
            piece = self._longest(data, place)
            ids.append(self._ids[piece])
            place += len(piece)
        return ids

    def _longest(self, data: bytes, place: int) -> bytes:
        for length in self._lengths.get(data[place : place + 2], (1,)):
            piece = data[place : place + length]
            if piece in self._ids:
                return piece
        raise TokenizerError(f"the vocabulary has no token for the byte 0x{data[place]:02X}.")


def _lengths_by_beginning(pieces: Iterable[bytes]) -> dict[bytes, list[int]]:
    """For each first two bytes, the lengths of the pieces that begin so, the longest first; then 1."""
    lengths: dict[bytes, set[int]] = {}
    for piece in pieces:
        lengths.setdefault(piece[:2], {1}).add(len(piece))
    return {beginning: sorted(found, reverse=True) for beginning, found in lengths.items()}


def _unescaped(text: str) -> bytes:
    """The bytes of a token written as Python writes bytes: ``\\xe2\\x80`` and ``\\n``."""
    try:
        return text.encode("ascii").decode("unicode_escape").encode("latin-1")
    except UnicodeError:
        raise TokenizerError(
            f"the token {text!r} is not written in ASCII with escapes like \\n and \\xe2."
        ) from None
