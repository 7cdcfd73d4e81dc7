"""Settings: every value once. Flags > ``SHIMMY_*`` > ``shimmy.toml`` > default.

One setting has one name in four spellings: ``--max-ctx``, ``SHIMMY_MAX_CTX``, ``max_ctx`` in the
file, ``settings.max_ctx``. Reading takes two passes, for plugins declare settings of their own:
:func:`load_settings`, then plugins load, then :func:`check_plugin_settings`.

This is pydantic without pydantic-settings: the latter doubles the import time, and which source a
value came from, unknown variables and the errors' wording would be ours to write all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Interval
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from shimmy.errors import ConfigError, did_you_mean
from shimmy.plugins import PluginChoice
from shimmy.settings_sources import DEFAULT, Given, Origin, collect, table_name
from shimmy.settings_table import Expected, SettingInfo, describe, takes_auto

if TYPE_CHECKING:
    from shimmy.plugins import Plugins

__all__ = ["Address", "Origin", "Settings", "check_plugin_settings", "load_settings", "settings_table"]

LOOPBACK = "127.0.0.1"
#: Flags that are not simply the key with hyphens.
FLAGS = {"bind_address": "--bind", "plugins.enabled": "--with", "plugins.disabled": "--without"}
#: Values of earlier servers of this name, and what became of them.
OBSOLETE_VALUES = {
    ("engine_backend", "airframe"): "airframe's successor is called 'wgpu'; 'auto' finds the best engine.",
    ("engine_backend", "llama"): "shimmy brings its own engines now; use 'auto'.",
}
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


BindAddress = Annotated[str, BeforeValidator(_check_bind_address), Expected("HOST:PORT, [IPV6]:PORT or auto")]
Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    Interval(ge=2**20),
    Expected("a size of at least 1MiB, such as 512MB or 2GiB"),
]


class Address(NamedTuple):
    """Where to listen; ``port`` None: look for a free one."""

    host: str
    port: int | None


class PluginTables(BaseModel):
    """The ``[plugins]`` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: tuple[str, ...] | None = Field(default=None, description="Load only these plugins.")
    disabled: tuple[str, ...] = Field(default=(), description="Never import these plugins.")
    settings: dict[str, dict[str, Any]] = {}


class Settings(BaseModel):
    """The core's settings. Frozen; :meth:`origin` tells where each value came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)

    host: str = Field(default=LOOPBACK, description="Address to listen on.")
    port: Annotated[int, Interval(ge=1, le=65535)] | Literal["auto"] = Field(
        default="auto", description="Port to listen on; auto takes 11435, else the next free one."
    )
    bind_address: BindAddress | None = Field(
        default=None,
        description="Host and port in one; wins over both unless they come from a stronger source.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Names a request's Host header may have besides this machine's loopback ones."
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Web origins whose pages may call the server."
    )
    base_gguf: Path | None = Field(default=None, description="The model file to serve by default.")
    model_paths: tuple[Path, ...] = Field(
        default=(), description="Model files, and folders to search for them."
    )
    models_dir: Path | None = Field(default=None, description="One more folder to search for models.")
    frontends: tuple[str, ...] | None = Field(default=None, description="Serve only these APIs.")
    strict_plugins: bool = Field(default=False, description="Stop when a plugin fails to load.")
    engine_backend: str = Field(default="auto", description="The compute engine, by its registered name.")
    precision: Literal["auto", "f32"] = Field(
        default="auto", description="Precision of activations and KV cache."
    )
    threads: Annotated[int, Interval(ge=1, le=256)] | None = Field(
        default=None, description="CPU threads that compute."
    )
    max_ctx: Annotated[int, Interval(ge=512, le=131072)] | None = Field(
        default=None, description="Longest context of a sequence, in tokens."
    )
    kv_memory: Bytes | None = Field(default=None, description="Memory for the KV cache of a model.")
    max_sequences: Annotated[int, Interval(ge=1, le=1024)] = Field(
        default=32, description="Sequences a model computes at a time; further requests wait."
    )
    step_tokens: Annotated[int, Interval(ge=1, le=8192)] = Field(
        default=128, description="Most tokens that one step of the engine computes."
    )
    max_loaded_models: Annotated[int, Interval(ge=1, le=64)] = Field(
        default=1, description="Models in memory at a time."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity logged."
    )
    plugins: PluginTables = PluginTables()

    @field_validator("*", mode="before")
    @classmethod
    def _spellings(cls, value: Any, info: ValidationInfo) -> Any:
        """``auto`` is a spelling of None where only None is meant; True is no number."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if value == "auto" and takes_auto(annotation):
            return None
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("a truth value")
        return value

    def origin(self, key: str) -> Origin:
        """Where the value of ``key`` (``max_ctx``, ``plugins.disabled``) came from."""
        return self._origins.get(key, DEFAULT)

    @property
    def address(self) -> Address:
        """Where to listen, by ``bind_address`` or by ``host`` and ``port``."""
        stronger = max(self.origin("host").source, self.origin("port").source)
        if self.bind_address is None or self.origin("bind_address").source < stronger:
            return Address(self.host, None if self.port == "auto" else self.port)
        if self.bind_address == "auto":
            return Address(LOOPBACK, None)
        return Address(*split_address(self.bind_address))

    @property
    def plugin_choice(self) -> PluginChoice:
        return PluginChoice(self.plugins.enabled, self.plugins.disabled, self.strict_plugins)


def settings_table() -> dict[str, SettingInfo]:
    """Every setting by key: its spellings, default, what it takes, and its help."""
    return describe(Settings, FLAGS) | describe(PluginTables, FLAGS, "plugins.")


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """The settings in force. ``flags`` are by key (``max_ctx``, ``plugins.disabled``); None is not given.

    Raises:
        ConfigError: an unknown key or variable, a value of wrong type or out of range.
    """
    table = settings_table()
    shapes = {key: info.shape for key, info in table.items()}
    given = collect(flags or {}, {key: info.flag for key, info in table.items()}, config, shapes)
    _refuse_obsolete(given)
    try:
        settings = Settings.model_validate(_nested(given))
    except ValidationError as error:
        raise _config_error(error, given, table) from None
    settings._origins.update({key: value.origin for key, value in given.items()})
    return settings


def check_plugin_settings(settings: Settings, plugins: Plugins) -> dict[str, BaseModel]:
    """The second pass: names that plugins define, and their tables, checked; the tables by name.

    Raises:
        ConfigError: an engine, frontend or table that no loaded plugin brings; a bad value in one.
    """
    if settings.engine_backend != "auto":
        _check_registered(settings, "engine_backend", settings.engine_backend, plugins.backends.names())
    for name in settings.frontends or ():
        _check_registered(settings, "frontends", name, plugins.frontends.names())
    specs = {table_name(spec.name): spec for spec in plugins.settings}
    for name in settings.plugins.settings:
        if name not in specs:
            raise ConfigError(
                f"[plugins.settings.{name}] is set, but no loaded plugin has such a table.",
                hint=did_you_mean(name, specs),
                param=f"plugins.settings.{name}",
            )
    return {spec.name: _plugin_table(settings, name, spec.load()) for name, spec in specs.items()}


def _plugin_table(settings: Settings, name: str, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(settings.plugins.settings.get(name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["plugins.settings", name, *map(str, first["loc"])])
        raise ConfigError(
            f"{key} is {first['input']!r} (from {settings.origin(key)}): {first['msg']}.", param=key
        ) from None


def _check_registered(settings: Settings, key: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{key} names {name!r} (from {settings.origin(key)}), but no loaded plugin registers it.",
            hint=did_you_mean(name, known),
            param=key,
        )


def _refuse_obsolete(given: Mapping[str, Given]) -> None:
    for key, value in given.items():
        if isinstance(value.value, str) and (advice := OBSOLETE_VALUES.get((key, value.value))):
            raise ConfigError(f"{key} is {value.value!r} (from {value.origin}): {advice}", param=key)


def _nested(given: Mapping[str, Given]) -> dict[str, Any]:
    """Flat keys -> the tables the models take."""
    root: dict[str, Any] = {}
    for key, value in given.items():
        *tables, name = key.split(".", 3)
        table = root
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value.value
    return root


def _config_error(
    error: ValidationError, given: Mapping[str, Given], table: Mapping[str, SettingInfo]
) -> ConfigError:
    """pydantic's findings as one line per setting: value, source, what was expected."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        # Behind the key come list positions and the members of unions.
        parts = [str(part) for part in problem["loc"]]
        key = next(key for key in (".".join(parts[:2]), parts[0]) if key in given)
        value = given[key]
        lines[key] = f"{key} is {value.value!r} (from {value.origin}); expected {table[key].expected}."
    return ConfigError("\n".join(lines.values()), param=next(iter(lines)))
