"""Where settings come from: flags, the environment, ``shimmy.toml``. Standard library only.

Everything here speaks of flat keys, as errors do: ``max_ctx``, ``plugins.disabled``,
``plugins.settings.NAME.KEY``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

from shimmy.errors import ConfigError, did_you_mean

PREFIX = "SHIMMY_"
CONFIG_VARIABLE = "SHIMMY_CONFIG"
#: Variables that are no settings: they act before, or beside, the reading of settings.
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "SHIMMY_TRACE_HOOKS"})
FILE_NAME = "shimmy.toml"
PLUGIN_TABLES = "plugins.settings."


class Shape(Enum):
    """How a setting is spelled where only text can be given."""

    TEXT = "text"
    PATH = "path"
    NAMES = "names"
    PATHS = "paths"


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
    """A value as someone gave it, before it is checked."""

    value: Any
    origin: Origin


def variable_name(key: str) -> str:
    """``plugins.disabled`` -> ``SHIMMY_PLUGINS__DISABLED``."""
    return PREFIX + key.replace(".", "__").upper()


def collect(
    flags: Mapping[str, Any], flag_names: Mapping[str, str], config: Path | None, shapes: Mapping[str, Shape]
) -> dict[str, Given]:
    """All given values by key, the strongest source's each: flags, then environment, then file."""
    given: dict[str, Given] = {}
    if file := config_file(config):
        given.update(_from_file(file, shapes))
    given.update(_from_environment(shapes))
    for key, value in flags.items():
        if value is not None and value not in ("", (), []):
            given[key] = Given(_from_text(value, shapes[key]), Origin(Source.FLAG, flag_names[key]))
    return given


def config_file(config: Path | None) -> Path | None:
    """The file to read: ``config``, else SHIMMY_CONFIG, else the nearest shimmy.toml that exists.

    Raises:
        ConfigError: a file was named, but there is none.
    """
    named = config or os.environ.get(CONFIG_VARIABLE)
    if named:
        file = Path(named).expanduser()
        if not file.is_file():
            origin = "--config" if config else CONFIG_VARIABLE
            raise ConfigError(
                f"the configuration file {str(file)!r} (from {origin}) does not exist.",
                hint="Name an existing TOML file, or leave it out to use the defaults.",
            )
        return file
    if (here := Path(FILE_NAME)).is_file():
        return here
    user = user_config_file()
    return user if user.is_file() else None


def user_config_file() -> Path:
    """Where a user's own ``shimmy.toml`` lies; it need not exist."""
    from platformdirs import user_config_path

    return user_config_path("shimmy", appauthor=False) / FILE_NAME


def _from_file(file: Path, shapes: Mapping[str, Shape]) -> dict[str, Given]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as TOML: {error}") from None
    origin = Origin(Source.FILE, str(file))
    given = {}
    for key, value in _flatten(tables, shapes):
        if key not in shapes and not _is_plugin_value(key):
            raise ConfigError(f"{key!r} in {file} is no setting.", hint=did_you_mean(key, shapes), param=key)
        given[key] = Given(_beside(file, value, shapes.get(key, Shape.TEXT)), origin)
    return given


def _flatten(
    table: Mapping[str, Any], shapes: Mapping[str, Shape], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """The leaves of nested tables under dotted keys; a plugin's own values are leaves too."""
    for name, value in table.items():
        key = prefix + name
        if prefix == PLUGIN_TABLES:
            key = prefix + table_name(name)
        if isinstance(value, dict) and not _is_plugin_value(key):
            yield from _flatten(value, shapes, key + ".")
        else:
            yield key, value


def table_name(plugin: str) -> str:
    """One spelling for ``[plugins.settings.my-plugin]`` and its variables, which hold no hyphens."""
    return plugin.replace("-", "_")


def _beside(file: Path, value: Any, shape: Shape) -> Any:
    """Relative paths in a file are meant from where the file lies."""
    if shape is Shape.PATH and isinstance(value, str):
        return file.parent / Path(value).expanduser()
    if shape is Shape.PATHS and isinstance(value, list):
        return [_beside(file, entry, Shape.PATH) for entry in value]
    return value


def _from_environment(shapes: Mapping[str, Shape]) -> dict[str, Given]:
    variables = {variable_name(key): key for key in shapes}
    plugin_prefix = variable_name(PLUGIN_TABLES)
    given = {}
    for variable, text in os.environ.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES or not text:
            continue
        key = variables.get(variable)
        if key is None and variable.startswith(plugin_prefix):
            key = PLUGIN_TABLES + variable.removeprefix(plugin_prefix).lower().replace("__", ".", 1)
        if key is None or (key not in shapes and not _is_plugin_value(key)):
            raise ConfigError(
                f"the environment has {variable}, but there is no such setting.",
                hint=did_you_mean(variable, variables),
                param=variable,
            )
        origin = Origin(Source.ENVIRONMENT, variable)
        given[key] = Given(_from_text(text, shapes.get(key, Shape.TEXT)), origin)
    return given


def _is_plugin_value(key: str) -> bool:
    """Whether ``key`` lies in some plugin's table; the plugin's own model checks it later."""
    return key.startswith(PLUGIN_TABLES) and "." in key.removeprefix(PLUGIN_TABLES)


def _from_text(value: Any, shape: Shape) -> Any:
    """Text (or a list of texts, from a flag given several times) -> what the setting's type takes."""
    if shape in (Shape.NAMES, Shape.PATHS):
        texts = [value] if isinstance(value, str) else [str(entry) for entry in value]
        entries = [entry for text in texts for entry in _split(text, shape)]
        return [Path(entry).expanduser() for entry in entries] if shape is Shape.PATHS else entries
    if shape is Shape.PATH:
        return Path(value).expanduser()
    return value


def _split(text: str, shape: Shape) -> list[str]:
    """``a,b`` for names; the system's separator and ``;`` for paths."""
    joined = text.replace(os.pathsep, ";") if shape is Shape.PATHS else text.replace(",", ";")
    return [entry.strip() for entry in joined.split(";") if entry.strip()]
