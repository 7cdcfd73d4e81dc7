"""The second pass over the settings: what only the loaded plugins can judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from shimmy.errors import ConfigError, did_you_mean
from shimmy.settings.model import Settings
from shimmy.settings.sources import table_name

if TYPE_CHECKING:
    from shimmy.plugins import Plugins


def check_plugin_settings(settings: Settings, plugins: Plugins) -> dict[str, BaseModel]:
    """The second pass: names that plugins define, and their tables, checked; the tables by name.

    Plugins reach their tables through :meth:`shimmy.hooks.Plugins.settings_of`.

    Raises:
        ConfigError: an engine, frontend, type or table that no loaded plugin brings; a bad value in one.
    """
    if settings.engine_backend != "auto":
        _check_registered(settings, "engine_backend", settings.engine_backend, plugins.backends.names())
    if settings.quantize != Settings.model_fields["quantize"].default:
        _check_writable(settings, plugins)
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
    tables = {spec.name: _plugin_table(settings, name, spec.load()) for name, spec in specs.items()}
    plugins.settings_tables = tables
    return tables


def check_base(settings: Settings) -> None:
    """Raise ConfigError if ``base_gguf`` is not there: whoever names one wants that one."""
    if (base := settings.base_gguf) is not None and not base.exists():
        raise ConfigError(
            f"base_gguf is {str(base)!r} (from {settings.origin('base_gguf')}), but no such file exists.",
            hint="Give the path of a GGUF file, or of a Hugging Face folder.",
            param="base_gguf",
        )


def _plugin_table(settings: Settings, name: str, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(settings.plugins.settings.get(name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        parts = ["plugins.settings", name, *map(str, first["loc"])]
        key, origin = ".".join(parts), settings.origin(".".join(parts[:3]))
        raise ConfigError(
            f"{key} is {first['input']!r} (from {origin}): {first['msg']}.", param=key
        ) from None


def _check_writable(settings: Settings, plugins: Plugins) -> None:
    from shimmy.gguf.encode import writable_type

    try:
        writable_type(settings.quantize, plugins.quant_types)
    except ConfigError as error:
        origin = settings.origin("quantize")
        raise ConfigError(
            f"quantize is {settings.quantize!r} (from {origin}): {error.message}",
            hint=error.hint,
            param="quantize",
        ) from None


def _check_registered(settings: Settings, key: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{key} names {name!r} (from {settings.origin(key)}), but no loaded plugin registers it.",
            hint=did_you_mean(name, known),
            param=key,
        )
