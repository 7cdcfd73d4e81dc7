"""From what flags, variables and the file say to checked settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shimmy.errors import ConfigError
from shimmy.settings.model import PluginTables, SamplingTable, Settings, settings_table
from shimmy.settings.sources import (
    CONFIG_KEY,
    PLUGIN_TABLES,
    Given,
    from_environment,
    from_file,
    from_flags,
)
from shimmy.settings.table import takes_auto
from shimmy.settings.values import convert

#: Values of earlier servers of this name, and what became of them.
OBSOLETE_VALUES = {("engine_backend", "llama"): "shimmy brings its own engines now; use 'auto'."}


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """The settings in force. ``flags`` are by key (``max_ctx``, ``plugins.disabled``); None is not given.

    Raises:
        ConfigError: an unknown key or variable; values of wrong type or out of range, all of them.
    """
    table = settings_table()
    strong = from_environment(table) | from_flags(flags or {}, config, table)
    given = from_file(strong.get(CONFIG_KEY), table) | strong
    file = given.pop(CONFIG_KEY, None)
    values: dict[str, Any] = {}
    plugin_tables: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    for key, each in given.items():
        try:
            if key.startswith(PLUGIN_TABLES):
                name, _, option = key.removeprefix(PLUGIN_TABLES).partition(".")
                plugin_tables.setdefault(name, {})[option] = each.value
            else:
                values[key] = _checked(key, each)
        except ValueError:
            problems[key] = _problem(key, each)
    if problems:
        raise ConfigError("\n".join(problems.values()), param=next(iter(problems)))
    return Settings(
        **{key: value for key, value in values.items() if "." not in key},
        config=Path(file.value).expanduser() if file else None,
        origins={key: each.origin for key, each in given.items()}
        | ({CONFIG_KEY: file.origin} if file else {}),
        sampling=SamplingTable(**_below("sampling.", values)),
        plugins=PluginTables(**_below("plugins.", values), settings=plugin_tables),
    )


def _checked(key: str, given: Given) -> Any:
    hint = settings_table()[key].hint
    if _advice(key, given.value):
        raise ValueError("obsolete")
    return convert(None if given.value == "auto" and takes_auto(hint) else given.value, hint)


def _below(table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one table, without its name."""
    return {key.removeprefix(table): value for key, value in values.items() if key.startswith(table)}


def _problem(key: str, given: Given) -> str:
    """What is wrong with a value: the value, its source, what was expected."""
    info = settings_table()[key]
    shown = "a secret not shown here" if info.is_secret else repr(given.value)
    advice = _advice(key, given.value)
    return f"{key} is {shown} (from {given.origin})" + (
        f": {advice}" if advice else f"; expected {info.expected}."
    )


def _advice(key: str, value: object) -> str | None:
    """What became of an obsolete value; None for any other."""
    return OBSOLETE_VALUES.get((key, value)) if isinstance(value, str) else None
