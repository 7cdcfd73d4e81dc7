"""Tokens to text while they are made: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from shimmy.errors import RequestError
from shimmy.text.tokenizer import Tokenizer


class TextStream:
    """The text of one generation, piece by piece.

    What ``push`` and ``flush`` return adds up to the text of all tokens, cut before the stop string that
    is complete first. Undecodable bytes are U+FFFD; those that only begin a character at the end are left
    out. Where the cuts between tokens fall changes nothing. The text continues a prompt, so a leading
    space is kept, although ``Tokenizer.decode`` of the same tokens, which stands alone, may drop it.

    Work and memory do not grow with the text already given out.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [_StopString(text) for text in stops]
        self._held = ""

    def push(self, tokens: Iterable[int]) -> str:
        """Take the next tokens; return what can be shown now, perhaps nothing."""
        if self.stopped:
            return ""
        return self._release(self._decoder.decode(b"".join(map(self._tokenizer.token_bytes, tokens))))

    def flush(self) -> str:
        """End the text; return what was held back."""
        if self.stopped:
            return ""
        # A character that the last token has only begun was cut off with the answer: it says nothing.
        self._decoder.reset()
        rest, self._held = self._held, ""
        return rest

    def _release(self, new: str) -> str:
        """What of the held and the new text cannot be part of a stop string; holds the rest."""
        text = self._held + new
        partial = len(self._held)
        if self._stops:
            for end, character in enumerate(new, start=len(self._held) + 1):
                partial = max(stop.advance(character) for stop in self._stops)
                complete = [len(stop.text) for stop in self._stops if stop.complete]
                if complete:
                    self.stopped, self._held = True, ""
                    return text[: end - max(complete)]
        shown = len(text) - partial
        self._held = text[shown:]
        return text[:shown]


class _StopString:
    """How much of a stop string the text ends with, kept up to date character by character.

    Knuth, Morris and Pratt's matching: no character of the text is looked at again.
    """

    def __init__(self, text: str) -> None:
        if not text:
            raise RequestError(
                "a stop string is empty.", hint="Leave it out to run to the end.", param="stop"
            )
        self.text = text
        self.matched = 0
        self._fallback = _borders(text)

    @property
    def complete(self) -> bool:
        return self.matched == len(self.text)

    def advance(self, character: str) -> int:
        """Take one character; return how many characters of the stop string now end the text."""
        self.matched = _step(self.text, self._fallback, self.matched, character)
        return self.matched


def _borders(text: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0]
    for character in text[1:]:
        borders.append(_step(text, borders, borders[-1], character))
    return borders


def _step(text: str, borders: Sequence[int], matched: int, character: str) -> int:
    """The longest prefix of ``text`` that ends with ``character`` after ``matched`` characters."""
    while matched and text[matched] != character:
        matched = borders[matched - 1]
    return matched + (text[matched] == character)
