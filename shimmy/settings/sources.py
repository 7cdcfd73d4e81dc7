"""The sources of settings: flags, variables, the file. Unknown names are refused, lists are given as
text, paths lie beside the file that names them, and every value has an origin.

A source hands over values by dotted key, as in errors: ``max_ctx``, ``plugins.disabled``,
``plugins.settings.NAME.KEY``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

from shimmy.caches import VARIABLE as CACHE_VARIABLE
from shimmy.errors import ConfigError, did_you_mean
from shimmy.settings.table import PREFIX, SettingInfo, Shape, variable_name

CONFIG_VARIABLE = "SHIMMY_CONFIG"
#: Which file is read: no setting, for the file cannot say so itself.
CONFIG_KEY = "config"
#: Variables that are not read here: they act before, or beside, the reading of settings.
OTHER_VARIABLES = frozenset({CACHE_VARIABLE, "SHIMMY_TRACE_HOOKS"})
FILE_NAME = "shimmy.toml"
PLUGIN_TABLES = "plugins.settings."


class Source(IntEnum):
    """The kinds of origin, weakest first."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; ``name`` is the flag, the variable or the file's path."""

    source: Source
    name: str

    def __str__(self) -> str:
        return self.name


DEFAULT = Origin(Source.DEFAULT, "default")


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody gave it."""

    value: Any
    origin: Origin


Table: TypeAlias = Mapping[str, SettingInfo]


def from_flags(flags: Mapping[str, Any], config: Path | None, table: Table) -> dict[str, Given]:
    """What flags say, by key; None and what is empty is not given. ``config`` is that of ``--config``."""
    given = {} if config is None else {CONFIG_KEY: Given(config, Origin(Source.FLAG, "--config"))}
    for key, value in flags.items():
        if value is not None and value not in ("", (), []):
            given[key] = Given(_listed(value, key, table), Origin(Source.FLAG, table[key].flag))
    return given


def from_environment(table: Table) -> dict[str, Given]:
    """What ``SHIMMY_*`` variables say: only capitals count, and empty ones are not given.

    Raises:
        ConfigError: there is no setting of such a name.
    """
    keys = {CONFIG_VARIABLE: CONFIG_KEY, **{info.variable: key for key, info in table.items()}}
    given = {}
    for variable, text in os.environ.items():
        if variable.startswith(PREFIX) and text and variable not in OTHER_VARIABLES:
            key = _key_of(variable, keys)
            given[key] = Given(_listed(text, key, table), Origin(Source.ENVIRONMENT, variable))
    return given


def from_file(named: Given | None, table: Table) -> dict[str, Given]:
    """What the file that is named says, else the nearest ``shimmy.toml`` that exists.

    Raises:
        ConfigError: the named file does not exist; it is no TOML; it has a key that is no setting.
    """
    file = _file(named)
    if file is None:
        return {}
    import tomllib

    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}") from None
    origin = Origin(Source.FILE, str(file))
    return {key: Given(_value(key, value, file, table), origin) for key, value in _flat(tables)}


def _key_of(variable: str, keys: Mapping[str, str]) -> str:
    plugin_prefix = variable_name(PLUGIN_TABLES)
    if variable.startswith(plugin_prefix):
        # The name of the key may hold the delimiter itself.
        name, separator, key = variable.removeprefix(plugin_prefix).lower().partition("__")
        if separator:
            return f"{PLUGIN_TABLES}{name}.{key}"
    if variable not in keys:
        raise ConfigError(
            f"the environment has {variable}, but there is no such setting.",
            hint=did_you_mean(variable, keys),
            param=variable,
        )
    return keys[variable]


def _file(named: Given | None) -> Path | None:
    if named is None:
        return next((file for file in default_files() if file.is_file()), None)
    file = Path(named.value).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"the configuration file {str(file)!r} (from {named.origin}) does not exist.",
            hint="Name an existing TOML file, or leave it out to use the defaults.",
        )
    return file


def _value(key: str, value: Any, file: Path, table: Table) -> Any:
    """The value of a known key; relative paths are meant from where the file lies."""
    if _is_plugin_value(key):
        return value
    if key not in table:
        raise ConfigError(f"{key!r} in {file} is no setting.", hint=did_you_mean(key, table), param=key)
    if table[key].shape is Shape.PATH:
        return _beside(file, value)
    if table[key].shape is Shape.PATHS and isinstance(value, list):
        return [_beside(file, entry) for entry in value]
    return value


def default_files() -> Iterator[Path]:
    """Where a file is looked for when none is named, the nearest first."""
    yield Path(FILE_NAME)
    yield user_config_file()


def user_config_file() -> Path:
    """Where a user's own ``shimmy.toml`` lies; it need not exist."""
    from platformdirs import user_config_path

    return user_config_path("shimmy", appauthor=False) / FILE_NAME


def table_name(plugin: str) -> str:
    """One spelling for ``[plugins.settings.my-plugin]`` and its variables, which hold no hyphens."""
    return plugin.replace("-", "_")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested tables under dotted keys; a plugin's own values are leaves too."""
    for name, value in table.items():
        key = prefix + (table_name(name) if prefix == PLUGIN_TABLES else name)
        if isinstance(value, dict) and not _is_plugin_value(key):
            yield from _flat(value, key + ".")
        else:
            yield key, value


def _is_plugin_value(key: str) -> bool:
    """Whether ``key`` lies in some plugin's table; the plugin's own model checks it later."""
    return key.startswith(PLUGIN_TABLES) and "." in key.removeprefix(PLUGIN_TABLES)


def _beside(file: Path, path: Any) -> Any:
    return file.parent / Path(path).expanduser() if isinstance(path, str) else path


def _listed(given: Any, key: str, table: Table) -> Any:
    """A list in text: ``a,b`` for names; the system's separator and ``;`` for paths. Flags may repeat."""
    shape = table[key].shape if key in table else Shape.TEXT
    if shape not in (Shape.NAMES, Shape.PATHS):
        return given
    texts = [given] if isinstance(given, str) else map(str, given)
    separator = os.pathsep if shape is Shape.PATHS else ","
    entries = (entry.strip() for text in texts for entry in text.replace(separator, ";").split(";"))
    return [entry for entry in entries if entry]
