"""What one run of a chat template may take: time, and the size of what it makes.

A template comes with a model file, so it is a stranger's program. :mod:`shimmy.text.sandbox` asks here
before and after whatever could take long or grow.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

T = TypeVar("T")

#: Processor time of one run, in seconds. Long chats take a few hundredths of one.
MAX_SECONDS = 5.0
#: Size of one value: its characters, and :data:`_ENTRY` for each entry of the containers in it. What
#: is in it several times counts as often, so whatever looks at all of a value ends.
MAX_VALUE = 32 * 2**20
#: Characters and entries that all operations of one run may make, whatever has become of them since.
MAX_MADE = 128 * 2**20
#: About the bytes of an entry.
_ENTRY = 16
_MAX_BITS = 2048
#: Characters of a text's character when it is shown within a container: ``\U0001f600``.
_ESCAPED = 10
#: Digits of a width that are looked at: more are too many anyway.
_DIGITS = 10
_ENDS_OF_LINES = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class OutOfBudget(Exception):  # noqa: N818 - a limit, not a defect
    """The template does more than a run may; says what."""


class Budget:
    """What is left for one run of a template."""

    def __init__(self) -> None:
        self._made = 0
        self._deadline = time.thread_time() + MAX_SECONDS

    def step(self) -> None:
        """Called wherever a run goes on.

        Raises:
            OutOfBudget: its time is over.
        """
        if time.thread_time() > self._deadline:
            raise OutOfBudget(f"takes longer than {MAX_SECONDS:g} seconds")

    def expect(self, size: int) -> None:
        """A step that will make something of this ``size``.

        Raises:
            OutOfBudget: it must not be made.
        """
        self.step()
        if size > MAX_VALUE:
            raise OutOfBudget(f"makes a value of more than {MAX_VALUE} characters")

    def made(self, value: T) -> T:
        """Count what a step has made, and pass it on.

        Raises:
            OutOfBudget: it is too large, or all that was made is.
        """
        self.expect(_size(value))
        if isinstance(value, str | list | tuple | Mapping):
            self._made += len(value)
            if self._made > MAX_MADE:
                raise OutOfBudget(f"makes values of more than {MAX_MADE} characters altogether")
        return value

    def stepped(self, values: Iterable[T]) -> Iterator[T]:
        """The same values, a step each."""
        for value in values:
            self.step()
            yield value

    def joined(self, pieces: Iterable[str]) -> str:
        """One text of many."""
        texts, size = [], 0
        for text in pieces:
            size += len(text)
            self.expect(size)
            texts.append(text)
        return self.made("".join(texts))


def _size(value: object) -> int:
    """The size of a value, as :data:`MAX_VALUE` counts it; no more of it is looked at than may be."""
    size, pending = 0, [value]
    while pending and size <= MAX_VALUE:
        item = pending.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, int) and item.bit_length() > _MAX_BITS:
            raise OutOfBudget(f"makes a number of more than {_MAX_BITS} bits")
        elif isinstance(item, list | tuple | Mapping | AbstractSet | ValuesView):
            size += _ENTRY * len(item)
            if size <= MAX_VALUE:
                pending.extend(item)
                pending.extend(item.values() if isinstance(item, Mapping) else ())
    return size


def _length(value: object) -> int:
    return len(value) if isinstance(value, Sized) else 1


def _padded(text: Any, width: Any = 80, *_: Any) -> int:
    return _length(text) + (width if isinstance(width, int) else 0)


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    return _lines(text) + _count_lines(text) * (width if isinstance(width, int) else _length(width))


def _lines(text: Any, *_: Any, **__: Any) -> int:
    return _ENTRY * _count_lines(text) + _length(text)


def _count_lines(text: Any) -> int:
    return 1 + sum(map(str(text).count, _ENDS_OF_LINES))


def _replaced(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    return _length(text) + str(text).count(str(old)) * _length(new)


def _separated(separator: Any, values: Any) -> int:
    return _length(separator) * _length(values) + _size(values)


def _split(text: str, sep: Any = None, *_: Any, **__: Any) -> int:
    return _ENTRY * (text.count(sep) if sep else _length(text) // 2) + _length(text)


def _tabbed(text: str, tabsize: int = 8) -> int:
    return _length(text) + text.count("\t") * tabsize


def _rounded(_value: Any, precision: int = 0, *_: Any, **__: Any) -> int:
    """A power of ten is made."""
    return _power(10, abs(precision))


def formatted(text: Any, *values: Any, **named: Any) -> int:
    """The most that ``%`` or ``format`` writes: each number may be a width, each field any of the values."""
    layout, given = str(text), [*values, *named.values()]
    largest = sum(len(value) if isinstance(value, str) else _ESCAPED * _size(value) for value in given)
    widths = layout
    if "*" in layout or re.search(r"{[^{}]*{", layout):
        # Values are widths too.
        widths += " ".join(["", *map(str, _flat(given))])
    width = sum(int(digits[:_DIGITS]) for digits in re.findall(r"\d+", widths))
    return len(layout) + width + (layout.count("{") + layout.count("%")) * largest


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, tuple) else (value,)


def _product(left: Any, right: Any) -> int:
    number, value = (left, right) if isinstance(left, int) else (right, left)
    if isinstance(value, str):
        return len(value) * int(number)
    return _ENTRY * len(value) * int(number) if isinstance(value, list | tuple) else 0


def _power(left: Any, right: Any) -> int:
    """Zero, for a number that may be made has hardly a size."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_BITS:
        raise OutOfBudget(f"makes a number of more than {_MAX_BITS} bits")
    return 0


def _remainder(left: Any, right: Any) -> int:
    return formatted(left, right) if isinstance(left, str) else 0


Sizes = Mapping[str, Callable[..., int]]

#: What can make something far larger than what it is given -> the size of that at most: operators,
OPERATORS: Sizes = {"*": _product, "**": _power, "%": _remainder}
#: methods of texts,
METHODS: Sizes = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    **dict.fromkeys(("split", "rsplit"), _split),
    **dict.fromkeys(("format", "format_map"), formatted),
    "splitlines": _lines,
    "expandtabs": _tabbed,
    "join": _separated,
    "replace": _replaced,
}
#: and filters.
FILTERS: Sizes = {
    "center": _padded,
    "format": formatted,
    "indent": _indented,
    "replace": _replaced,
    "round": _rounded,
}
