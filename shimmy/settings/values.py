"""What a setting's text or TOML value becomes: types of our own, and the conversion to any type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
#: Words for a switch besides true, false, 1 and 0.
_SWITCH_WORDS = {"yes": True, "on": True, "no": False, "off": False}


class Secret:
    """A text that is not shown when the settings are."""

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def read(cls, value: object) -> Self:
        """From a value as it was given; raises ValueError if it is no text."""
        if not isinstance(value, str):
            raise ValueError("not a text")
        return cls(value)

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(****)"


class Bytes(int):
    """A size in bytes, given as a number or as ``2GiB``; at least :attr:`LEAST`."""

    LEAST: ClassVar = 2**20
    EXPECTED: ClassVar = "a size of at least 1MiB, such as 512MB or 2GiB"

    @classmethod
    def read(cls, value: object) -> Self:
        """From a value as it was given; raises ValueError if it is no size, or too small."""
        size = parse_size(value) if isinstance(value, str) else value
        if not isinstance(size, int) or isinstance(size, bool) or size < cls.LEAST:
            raise ValueError("not a size, or a smaller one")
        return cls(size)


class BindAddress(str):
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``auto``."""

    EXPECTED: ClassVar = "HOST:PORT, [IPV6]:PORT or auto"
    __slots__ = ()

    @classmethod
    def read(cls, value: object) -> Self:
        """From a value as it was given; raises ValueError if it is no address."""
        if not isinstance(value, str):
            raise ValueError("not a text")
        if value != "auto":
            split_address(value)
        return cls(value)


def convert(value: object, hint: Any) -> Any:
    """``value``, from TOML or as text, as the type ``hint``.

    Raises:
        ValueError: it is none of that type, or out of its range.
    """
    if hint is bool and isinstance(value, str):
        value = _SWITCH_WORDS.get(value.lower(), value)
    # Not strict: numbers may be given as text, which is all that variables and flags hold.
    return msgspec.convert(value, hint, strict=False, dec_hook=_read)


def _read(kind: Any, value: object) -> object:
    """Values of types that msgspec does not know itself."""
    if kind is not Path:
        return kind.read(value)
    if not isinstance(value, str | Path):
        raise ValueError("not a path")
    return Path(value).expanduser()


def parse_size(text: str) -> int:
    """``"2GiB"`` -> bytes; raises ValueError if it is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError("not a size")
    return int(float(match[1]) * _UNITS[match[2]])


def split_address(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPV6]:PORT`` -> host and port; ValueError if it is neither."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not (colon and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError("not HOST:PORT")
    if ":" in host and not text.startswith("["):
        raise ValueError("IPv6 addresses need brackets")
    return host, int(port)
