"""``shimmy config``: the settings in force, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from shimmy.cli.common import SERVING, AsJson, bootstrap, settings_options
from shimmy.cli.output import print_json, print_table
from shimmy.plugins import Plugins
from shimmy.settings import Origin, Settings, settings_table
from shimmy.settings.sources import PLUGIN_TABLES, default_files, table_name

SECRET = "****"  # noqa: S105 - what is shown instead of one


@settings_options(*SERVING)
def command(ctx: typer.Context, json: AsJson = False) -> None:
    """Show every setting in force and where its value came from.

    Takes the flags of all other commands, to show what becomes of them.
    """
    settings, plugins = bootstrap(ctx)
    file = _file_in_use(settings)
    rows = [*_core(settings), *_of_plugins(settings, plugins)]
    if json:
        values = {
            key: {"value": _plain(value), "source": origin.source.name.lower(), "from": origin.name}
            for key, value, origin in rows
        }
        address = {"host": settings.address.host, "port": settings.address.port or "auto"}
        print_json({"config_file": file, "address": address, "settings": values})
        return
    print(f"configuration file: {file or 'none'}")
    print(f"listens on: {_address(settings)}\n")
    table = [(key, _text(key, value), str(origin)) for key, value, origin in rows]
    print_table(("setting", "value", "from"), table)


def _address(settings: Settings) -> str:
    """What host, port and bind_address come to."""
    host, port = settings.address
    return f"{f'[{host}]' if ':' in host else host}:{port or 'auto'}"


def _core(settings: Settings) -> Iterator[tuple[str, Any, Origin]]:
    for key in settings_table():
        value: Any = settings
        for name in key.split("."):
            value = getattr(value, name)
        yield key, value, settings.origin(key)


def _of_plugins(settings: Settings, plugins: Plugins) -> Iterator[tuple[str, Any, Origin]]:
    for name, table in plugins.settings_tables.items():
        for field, value in table:
            key = f"{PLUGIN_TABLES}{table_name(name)}.{field}"
            yield key, value, settings.origin(key)


def _file_in_use(settings: Settings) -> Path | None:
    """The file that is named, else the nearest of the usual ones, as it was read."""
    named = [settings.config] if settings.config else default_files()
    return next((file.absolute() for file in named if file.is_file()), None)


def _plain(value: Any) -> Any:
    """The value as JSON takes it, secrets hidden wherever they are."""
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return SECRET
    if isinstance(value, BaseModel):
        return {name: _plain(field) for name, field in value}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


def _text(key: str, value: Any) -> str:
    """The value for people; what is not set is called as the documentation calls it."""
    plain = _plain(value)
    if plain is None or plain == []:
        return settings_table()[key].default if key in settings_table() else "unset"
    if isinstance(plain, bool):
        return str(plain).lower()
    return ", ".join(map(str, plain)) if isinstance(plain, list) else str(plain)
