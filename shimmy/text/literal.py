"""Text of users that spells control tokens, marked so that it stays text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from shimmy.text.tokenizer import MARK


class ControlTexts:
    """The spellings of a vocabulary's control tokens, to find them in what users write."""

    def __init__(self, spellings: frozenset[str]) -> None:
        self._spellings = spellings = spellings - {""}
        self._lengths = sorted(set(map(len, spellings)))
        self._beginnings = {text[:size] for text in spellings for size in range(1, len(text))}
        self._first = _first_characters(spellings)

    def marked(self, value: Any) -> Any:
        """``value`` with a mark inside every control token that a text anywhere in it spells.

        So is the beginning of one at the end of a text: templates write texts after one another.
        """
        if isinstance(value, str):
            return self._marked_text(value)
        if isinstance(value, Mapping):
            return {self.marked(key): self.marked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(item) for item in value]
        return value

    def _marked_text(self, text: str) -> str:
        cuts = [place.end() for place in self._first.finditer(text) if self._begins_at(text, place.start())]
        if not cuts:
            return text
        return MARK.join(text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True))

    def _begins_at(self, text: str, start: int) -> bool:
        """Whether a spelling begins here, or the text ends within one; looks no further than need be."""
        for length in self._lengths:
            part = text[start : start + length]
            if part in self._spellings:
                return True
            if part not in self._beginnings:
                return False
        return True  # the text has ended: no beginning is as long as the longest spelling


def _first_characters(spellings: frozenset[str]) -> re.Pattern[str]:
    """Finds the first character of a spelling where the second follows, or the text ends."""
    seconds: dict[str, set[str]] = {}
    for text in spellings:
        seconds.setdefault(text[0], set()).add(text[1:2])
    found = [
        re.escape(first)
        if "" in after
        else f"{re.escape(first)}(?=[{re.escape(''.join(sorted(after)))}]|\\Z)"
        for first, after in sorted(seconds.items())
    ]
    return re.compile("|".join(found) or "(?!)")


@lru_cache(maxsize=4)
def control_texts(spellings: frozenset[str]) -> ControlTexts:
    """:class:`ControlTexts` of a tokenizer's ``control_texts``, kept for the next request."""
    return ControlTexts(spellings)
