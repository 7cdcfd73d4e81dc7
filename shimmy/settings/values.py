"""Types of settings that pydantic does not bring: sizes, addresses, paths of a user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from pydantic import AfterValidator, BeforeValidator

from shimmy.settings.table import Expected

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_size(value: object) -> object:
    """``"2GiB"`` -> bytes; what is not text passes through."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", value.lower())
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


def _check_bind_address(value: object) -> object:
    if isinstance(value, str) and value != "auto":
        split_address(value)
    return value


UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
BindAddress = Annotated[str, BeforeValidator(_check_bind_address), Expected("HOST:PORT, [IPV6]:PORT or auto")]
Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    Interval(ge=2**20),
    Expected("a size of at least 1MiB, such as 512MB or 2GiB"),
]
