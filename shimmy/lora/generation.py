"""``generation_config.json`` of an adapter's folder: how its answers are drawn, and what ends them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shimmy.errors import AdapterError
from shimmy.lora.config import read_json

GENERATION_CONFIG = "generation_config.json"
_TEMPERATURE = "general.sampling.temp"


@dataclass(frozen=True, slots=True)
class _Number:
    """A field: where GGUF has it, and what may stand there, as in a request."""

    key: str
    least: float
    most: float
    whole: bool = False

    @property
    def expected(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.least:g} to {self.most:g}"

    def takes(self, value: object) -> bool:
        kinds = (int,) if self.whole else (int, float)
        # NaN is in no range.
        return type(value) in kinds and self.least <= value <= self.most  # type: ignore[operator]


_SAMPLING = {
    "temperature": _Number(_TEMPERATURE, 0, 2),
    "top_p": _Number("general.sampling.top_p", 0, 1),
    "top_k": _Number("general.sampling.top_k", 0, 2**31 - 1, whole=True),
    "min_p": _Number("general.sampling.min_p", 0, 1),
    "repetition_penalty": _Number("general.sampling.penalty_repeat", 0.01, 10),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """What the file says; empty where there is none."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of requests, in the metadata of GGUF."""
    ends: frozenset[int] = frozenset()
    """Tokens that end an answer."""


def read_generation(folder: Path, vocabulary: int) -> Generation:
    """What the adapter in ``folder`` says of generating, for a base with so many tokens.

    Raises:
        AdapterError: a value is not of its kind or out of range; names file, key, found and expected.
    """
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return Generation()
    content = read_json(path)
    sampling = {
        number.key: _checked(path, name, content[name], number)
        for name, number in _SAMPLING.items()
        if content.get(name) is not None
    }
    if _draws(path, content) is False:
        # What else it says of drawing is for those who switch it on.
        sampling[_TEMPERATURE] = 0.0
    return Generation(sampling, _ends(path, content, vocabulary))


def _checked(path: Path, name: str, value: Any, number: _Number) -> Any:
    if not number.takes(value):
        raise _wrong(path, name, value, number.expected)
    return value


def _draws(path: Path, content: Mapping[str, Any]) -> bool | None:
    value = content.get("do_sample")
    if value is None or isinstance(value, bool):
        return value
    raise _wrong(path, "do_sample", value, "true or false")


def _ends(path: Path, content: Mapping[str, Any], vocabulary: int) -> frozenset[int]:
    """One token or a list of them."""
    value = content.get("eos_token_id")
    ends = value if isinstance(value, list) else [] if value is None else [value]
    for end in ends:
        if type(end) is not int or not 0 <= end < vocabulary:
            raise _wrong(path, "eos_token_id", value, f"token ids from 0 to {vocabulary - 1}")
    return frozenset(ends)


def _wrong(path: Path, name: str, value: Any, expected: str) -> AdapterError:
    shown = "NaN" if isinstance(value, float) and math.isnan(value) else f"{value!r:.60}"
    return AdapterError(
        f"{path}: {name} is {shown}, expected {expected}.",
        hint="Correct the file, or remove the key.",
    )
