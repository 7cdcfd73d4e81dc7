"""What is wrong with given settings, in words: value, source, what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from shimmy.errors import ConfigError
from shimmy.settings.sources import DEFAULT
from shimmy.settings.table import SettingInfo

#: Values of earlier servers of this name, and what became of them.
OBSOLETE_VALUES = {("engine_backend", "llama"): "shimmy brings its own engines now; use 'auto'."}
_OBSOLETE = "obsolete"


def check_obsolete(key: str, value: Any) -> None:
    """Raise, for pydantic, what to use instead of an obsolete value."""
    if isinstance(value, str) and (advice := OBSOLETE_VALUES.get((key, value))):
        raise PydanticCustomError(_OBSOLETE, advice)


def config_error(
    error: ValidationError, given: Mapping[str, Any], table: Mapping[str, SettingInfo]
) -> ConfigError:
    """pydantic's findings, a line for each setting.

    Args:
        given: the values as they were checked, and under ``origins`` where they came from.
        table: all settings by key.
    """
    lines: dict[str, str] = {}
    for problem in error.errors():
        # Behind the key come list positions and the members of unions.
        parts = [str(part) for part in problem["loc"]]
        key = next((key for key in (".".join(parts[:2]), parts[0]) if key in table), parts[0])
        origin, info = given.get("origins", {}).get(key, DEFAULT), table.get(key)
        lines[key] = f"{key} is {_shown(given, key, info)} (from {origin}){_reason(problem, info)}"
    return ConfigError("\n".join(lines.values()), param=next(iter(lines)))


def _shown(given: Mapping[str, Any], key: str, info: SettingInfo | None) -> str:
    if info and info.is_secret:
        return "a secret not shown here"
    return repr(reduce(lambda values, name: values[name], key.split("."), given))


def _reason(problem: ErrorDetails, info: SettingInfo | None) -> str:
    if problem["type"] == _OBSOLETE or info is None:
        return f": {problem['msg']}"
    return f"; expected {info.expected}."
