"""What commands share: options that are settings, and the way from flags to settings and plugins."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from shimmy.plugins import Plugins, load_plugins
from shimmy.settings import Settings, check_plugin_settings, load_settings, settings_table
from shimmy.settings_table import SettingInfo, Shape


def settings_options(*keys: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per named setting; :func:`bootstrap` reads them from its context.

    The command itself does not receive them::

        @settings_options("host", "port")
        def command(ctx: typer.Context) -> None:
            settings, plugins = bootstrap(ctx)
    """
    table = settings_table()
    options = {_parameter(key): _option(table[key]) for key in keys}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**arguments: Any) -> None:
            function(**{name: value for name, value in arguments.items() if name not in options})

        signature = inspect.signature(function, eval_str=True)
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in options.items()
        ]
        parameters = [*signature.parameters.values(), *added]
        # Typer reads both.
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def bootstrap(ctx: typer.Context) -> tuple[Settings, Plugins]:
    """Settings from all sources, flags of the command and of ``shimmy`` itself first; plugins; logging.

    Raises:
        ConfigError: anything about the settings is wrong.
        PluginError: two claims to one name; or a failed plugin, if those are to be fatal.
    """
    given = ctx.find_root().params | ctx.params
    flags = {key: given.get(_parameter(key)) for key in settings_table()}
    settings = load_settings(flags, config=_path(given.get("config")))
    _set_up_logging(settings.log_level)
    plugins = load_plugins(settings.plugin_choice)
    check_plugin_settings(settings, plugins)
    return settings, plugins


def _parameter(key: str) -> str:
    """The name of a setting's option among a command's parameters."""
    return key.replace(".", "_")


def _option(info: SettingInfo) -> Any:
    """A Typer annotation. Values stay text: the settings check them, and say where they came from."""
    text = f"{info.help} Takes {info.expected}; default: {info.default}."
    if info.is_switch:
        name = info.flag.removeprefix("--")
        return Annotated[
            bool | None, typer.Option(f"--{name}/--no-{name}", help=info.help, show_default=False)
        ]
    if info.shape in (Shape.NAMES, Shape.PATHS):
        metavar = "NAME" if info.shape is Shape.NAMES else "PATH"
        help_text = f"{info.help} May be repeated; default: {info.default}."
        return Annotated[list[str] | None, typer.Option(info.flag, metavar=metavar, help=help_text)]
    metavar = "PATH" if info.shape is Shape.PATH else "VALUE"
    return Annotated[str | None, typer.Option(info.flag, metavar=metavar, help=text)]


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _set_up_logging(level: str) -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    for name in ("shimmy", "shimmy_plugins"):
        logging.getLogger(name).setLevel(level.upper())
