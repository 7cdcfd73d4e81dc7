"""The sources of settings, where pydantic-settings alone does not do: unknown names are refused,
lists are given as text, paths lie beside the file that names them, and every value has an origin.

A source hands over nested tables as the model takes them, and under ``origins`` where each value
came from, by key. Keys are dotted, as in errors: ``max_ctx``, ``plugins.disabled``,
``plugins.settings.NAME.KEY``. The library merges both alike, so values and origins cannot differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from shimmy.caches import VARIABLE as CACHE_VARIABLE
from shimmy.errors import ConfigError, did_you_mean
from shimmy.settings.table import PREFIX, SettingInfo, Shape, shape_of, variable_name

CONFIG_VARIABLE = "SHIMMY_CONFIG"
#: Variables that are no settings: they act before, or beside, the reading of settings.
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, CACHE_VARIABLE, "SHIMMY_TRACE_HOOKS"})
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


def flag_arguments(
    flags: Mapping[str, Any], config: Path | None, table: Mapping[str, SettingInfo]
) -> dict[str, Any]:
    """Flags by key as the arguments of the settings model; None and what is empty is not given."""
    values: dict[str, Any] = {} if config is None else {"config": config}
    origins = {key: Origin(Source.FLAG, "--config") for key in values}
    for key, value in flags.items():
        if value is not None and value not in ("", (), []):
            is_list = table[key].shape in (Shape.NAMES, Shape.PATHS)
            values[key] = _entries(value, table[key].shape) if is_list else value
            origins[key] = Origin(Source.FLAG, table[key].flag)
    return _nested(values) | {"origins": origins}


class EnvironmentSource(EnvSettingsSource):
    """``SHIMMY_*`` variables: only capitals, none unknown, lists in text instead of JSON."""

    def __init__(self, model: type[BaseSettings], table: Mapping[str, SettingInfo]) -> None:
        super().__init__(model)
        self._keys = {CONFIG_VARIABLE: "config", **{info.variable: key for key, info in table.items()}}
        self._given = {
            variable: text
            for variable, text in os.environ.items()
            if variable.startswith(PREFIX) and text and variable not in OTHER_VARIABLES - {CONFIG_VARIABLE}
        }
        # The library, which folds all names to lower case, would take ``shimmy_port`` for SHIMMY_PORT.
        self.env_vars = {variable.lower(): text for variable, text in self._given.items()}

    def __call__(self) -> dict[str, Any]:
        origins = {self._key(variable): Origin(Source.ENVIRONMENT, variable) for variable in self._given}
        return super().__call__() | {"origins": origins}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> list[str]:  # noqa: ARG002
        return _entries(value, shape_of(field.annotation))

    def _key(self, variable: str) -> str:
        plugin_prefix = variable_name(PLUGIN_TABLES)
        if variable.startswith(plugin_prefix):
            table, separator, name = variable.removeprefix(plugin_prefix).lower().partition("__")
            if separator:
                return f"{PLUGIN_TABLES}{table}.{name}"
        if variable not in self._keys:
            raise ConfigError(
                f"the environment has {variable}, but there is no such setting.",
                hint=did_you_mean(variable, self._keys),
                param=variable,
            )
        return self._keys[variable]


class FileSource(PydanticBaseSettingsSource):
    """``shimmy.toml``, read by the library when stronger sources have said which one it is."""

    def __init__(self, model: type[BaseSettings], table: Mapping[str, SettingInfo]) -> None:
        super().__init__(model)
        self._table = table

    def __call__(self) -> dict[str, Any]:
        file = self._file()
        if file is None:
            return {}
        try:
            # The raw data: the source itself would let MAX_CTX pass for max_ctx.
            tables = TomlConfigSettingsSource(self.settings_cls, file).toml_data
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read as TOML: {error}") from None
        values = {key: self._value(key, value, file) for key, value in _flat(tables)}
        return _nested(values) | {"origins": dict.fromkeys(values, Origin(Source.FILE, str(file)))}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("the file is read as a whole")

    def _file(self) -> Path | None:
        """The file to read: the one that is named, else the nearest shimmy.toml that exists."""
        named = self.current_state.get("config")
        if named is None:
            return next((file for file in default_files() if file.is_file()), None)
        file = Path(named).expanduser()
        if not file.is_file():
            origin = self.current_state.get("origins", {}).get("config", DEFAULT)
            raise ConfigError(
                f"the configuration file {str(file)!r} (from {origin}) does not exist.",
                hint="Name an existing TOML file, or leave it out to use the defaults.",
            )
        return file

    def _value(self, key: str, value: Any, file: Path) -> Any:
        """The value of a known key; relative paths are meant from where the file lies."""
        if _is_plugin_value(key):
            return value
        if key not in self._table:
            raise ConfigError(
                f"{key!r} in {file} is no setting.", hint=did_you_mean(key, self._table), param=key
            )
        if self._table[key].shape is Shape.PATH:
            return _beside(file, value)
        if self._table[key].shape is Shape.PATHS and isinstance(value, list):
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


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key -> the tables the models take."""
    root: dict[str, Any] = {}
    for key, value in values.items():
        *tables, name = key.split(".", 3)
        table = root
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    return root


def _is_plugin_value(key: str) -> bool:
    """Whether ``key`` lies in some plugin's table; the plugin's own model checks it later."""
    return key.startswith(PLUGIN_TABLES) and "." in key.removeprefix(PLUGIN_TABLES)


def _beside(file: Path, path: Any) -> Any:
    return file.parent / Path(path).expanduser() if isinstance(path, str) else path


def _entries(given: str | Iterable[object], shape: Shape) -> list[str]:
    """A list in text: ``a,b`` for names; the system's separator and ``;`` for paths. Flags may repeat."""
    texts = [given] if isinstance(given, str) else map(str, given)
    separator = os.pathsep if shape is Shape.PATHS else ","
    entries = (entry.strip() for text in texts for entry in text.replace(separator, ";").split(";"))
    return [entry for entry in entries if entry]
