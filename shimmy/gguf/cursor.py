"""Read the values of a GGUF head one after another, each checked before it is touched.

A string is a u64 length and UTF-8; an array an element type u32, a count u64 and the elements.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from shimmy.errors import GGUFError

#: GGUF value types: id -> struct code of the scalar; strings and arrays are apart.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING = 8
ARRAY = 9
#: The head of the largest vocabularies known is some 30 MiB; more than this is a broken count.
MAX_HEAD_BYTES = 128 * 2**20
MAX_ARRAY_DEPTH = 4
#: Elements of all arrays together. The largest vocabularies take 1.3 million; an element may take
#: 60 bytes in memory for one in the file, so the bytes alone do not bound what a head costs.
MAX_ELEMENTS = 2**22
#: Of a metadata key or a tensor's name; those in use stay below a tenth of it.
MAX_NAME_BYTES = 1024
#: The fewest bytes a string and an array take: they bound a count before its elements are read.
LEAST_STRING = 8
LEAST_ARRAY = 12
#: Elements from which on an array is stepped over when skimming; lists of one number a layer are shorter.
LONG_ARRAY = 1024

_STRUCTS = {kind: struct.Struct("<" + code) for kind, code in SCALARS.items()}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
# How a key that may follow a vocabulary begins: the upper bytes of its length, then its first word.
_NEXT_KEYS = (bytes(7) + b"tokenizer.", bytes(7) + b"general.")
_NEXT_KEY_BYTES = max(map(len, _NEXT_KEYS))
# Bytes searched at once, and how far on average a string of a vocabulary may reach.
_CHUNK = 2**18
_MOST_BYTES_A_STRING = 64


@dataclass(frozen=True, slots=True)
class Skimmed:
    """Stands for an array that was stepped over: checked, not built."""

    count: int


class Cursor:
    """A position in the head of a file. All methods raise GGUFError, naming file, field and byte.

    With ``skim``, long arrays are stepped over and become :class:`Skimmed`. With ``leap`` those of
    strings, whose end can only be found string by string, end where a key seems to follow:
    that it does must show in what is read from there on.
    """

    def __init__(self, buffer: bytes | mmap, file: str, *, skim: bool = False, leap: bool = False) -> None:
        self.buffer = buffer
        self.position = 0
        self.leap = leap
        self.leapt = False
        """Whether the end of an array has been guessed."""
        self._file = file
        self._skim = skim
        self._elements = 0
        self._limit = min(len(buffer), MAX_HEAD_BYTES)

    def error(self, field: str, problem: str, at: int, hint: str | None = None) -> GGUFError:
        """The error for a ``field`` whose bytes begin ``at``."""
        hint = hint or "The file is damaged or incomplete: download or copy it again."
        return GGUFError(f"{self._file}: {field} at byte {at}: {problem}.", hint=hint)

    def claim(self, field: str, count: int, each: int) -> None:
        """Check that ``count`` items of at least ``each`` bytes can follow."""
        if count * each > self._limit - self.position:
            raise self._short(field, f"{count} items of at least {each} bytes", self.position)

    def numbers(self, field: str, form: struct.Struct) -> tuple[Any, ...]:
        """The next numbers, as ``form`` has them."""
        if form.size > self._limit - self.position:
            raise self._short(field, f"{form.size} bytes", self.position)
        found = form.unpack_from(self.buffer, self.position)
        self.position += form.size
        return found

    def u32(self, field: str) -> int:
        """The next unsigned 32-bit integer."""
        number: int = self.numbers(field, _U32)[0]
        return number

    def u64(self, field: str) -> int:
        """The next unsigned 64-bit integer."""
        number: int = self.numbers(field, _U64)[0]
        return number

    def name(self, field: str) -> str:
        """The next string, a key or a name: short enough for any message."""
        start = self.position
        text = self.string(field)
        if self.position - start > MAX_NAME_BYTES + _U64.size:
            length = self.position - start - _U64.size
            raise self.error(field, f"a name of {length} bytes, expected at most {MAX_NAME_BYTES}", start)
        return text

    def string(self, field: str) -> str:
        """The next string; it must be UTF-8."""
        length = self.u64(field)
        start = self.position
        if length > self._limit - start:
            raise self._short(field, f"a string of {length} bytes", start)
        self.position += length
        try:
            return str(self.buffer[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(field, f"not valid UTF-8: {error.reason}", start + error.start) from None

    def value(self, field: str) -> Any:
        """The next metadata value: its type, then bool, int, float, str or (nested) list of these.

        When skimming, a long list is :class:`Skimmed` instead.

        Strings *inside arrays* (token vocabularies) may be any bytes: what is not UTF-8 is kept as
        lone surrogates and comes back by ``.encode("utf-8", "surrogateescape")``.
        """
        return self._value(field, self.u32(field), 0)

    def _value(self, field: str, kind: int, depth: int) -> Any:
        if kind in _STRUCTS:
            return self.numbers(field, _STRUCTS[kind])[0]
        if kind == STRING:
            return self.string(field)
        if kind == ARRAY:
            return self._array(field, depth + 1)
        problem = f"value type {kind} is unknown, expected 0 to {max(SCALARS)}"
        raise self.error(field, problem, self.position - _U32.size)

    def _array(self, field: str, depth: int) -> list[Any] | Skimmed:
        if depth > MAX_ARRAY_DEPTH:
            raise self.error(field, f"arrays nested deeper than {MAX_ARRAY_DEPTH}", self.position)
        kind = self.u32(field)
        count = self.u64(field)
        least = _STRUCTS[kind].size if kind in SCALARS else LEAST_STRING if kind == STRING else LEAST_ARRAY
        self.claim(field, count, least)
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            problem = f"the arrays have more than {MAX_ELEMENTS} elements together"
            raise self.error(field, problem, self.position)
        if kind in SCALARS:
            return self._scalars(kind, count)
        if kind == STRING:
            return self._skip_strings(field, count) if self._skips(count) else self._strings(field, count)
        values = [self._value(field, kind, depth) for _ in range(count)]
        return Skimmed(count) if self._skips(count) else values

    def _skips(self, count: int) -> bool:
        return self._skim and count >= LONG_ARRAY

    def _scalars(self, kind: int, count: int) -> list[Any] | Skimmed:
        start = self.position
        self.position += count * _STRUCTS[kind].size
        if self._skips(count):
            return Skimmed(count)
        return list(struct.unpack_from(f"<{count}{SCALARS[kind]}", self.buffer, start))

    def _skip_strings(self, field: str, count: int) -> Skimmed:
        if self.leap and self._leap_strings(count):
            return Skimmed(count)
        # As hot as the loop below, over more files.
        buffer, limit, position, unpack = self.buffer, self._limit, self.position, _U64.unpack_from
        try:
            for _ in range(count):
                position += 8 + unpack(buffer, position)[0]
                if position > limit:
                    raise self._short(field, f"{count} strings", self.position)
        except struct.error:
            raise self._short(field, f"{count} strings", self.position) from None
        self.position = position
        return Skimmed(count)

    def _leap_strings(self, count: int) -> bool:
        """Move to what looks like the next key, if there is one; 40 times as fast as string by string."""
        start = self.position + count * LEAST_STRING
        end = min(start + count * _MOST_BYTES_A_STRING, self._limit)
        for place in range(start, end, _CHUNK):
            chunk = self.buffer[place : min(place + _CHUNK + _NEXT_KEY_BYTES - 1, end)]
            # The first word found will do: a key that was passed over is missed when they are counted.
            found = next((at for key in _NEXT_KEYS if (at := chunk.find(key)) >= 0), None)
            if found is not None:
                self.position = place + found - 1
                self.leapt = True
                return True
        return False

    def _strings(self, field: str, count: int) -> list[str]:
        # The one hot loop of opening a file (a vocabulary has 50,000 to 500,000 strings),
        # hence local names, and the bounds of a length left to struct.
        buffer, limit, position, unpack = self.buffer, self._limit, self.position, _U64.unpack_from
        strings: list[str] = []
        append = strings.append
        try:
            for _ in range(count):
                (length,) = unpack(buffer, position)
                start = position + 8
                position = start + length
                if position > limit:
                    raise self._short(field, f"string {len(strings)} of {length} bytes", start)
                append(str(buffer[start:position], "utf-8", "surrogateescape"))
        except struct.error:
            raise self._short(field, f"the length of string {len(strings)}", position) from None
        self.position = position
        return strings

    def _short(self, field: str, wanted: str, at: int) -> GGUFError:
        left = max(self._limit - at, 0)
        whole = "the file" if self._limit == len(self.buffer) else f"the {MAX_HEAD_BYTES} a head may take"
        return self.error(field, f"expected {wanted}, but only {left} bytes of {whole} are left", at)
