"""Every flag of a command is a setting that somebody reads, and the other way round."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shimmy
import shimmy_plugins
from shimmy.cli.app import COMMANDS, build
from shimmy.cli.common import ENGINE, FINDING, NAMING, ROOT, SAMPLING, SERVING, TEXT
from shimmy.engine.settings import EngineSettings
from shimmy.settings import load_settings, settings_table

CORE, PLUGINS = Path(shimmy.__file__).parent, Path(shimmy_plugins.__file__).parent
LOADING = {*FINDING, *NAMING, *TEXT, *ENGINE}
HEEDED = {
    "shimmy": set(ROOT),
    "serve": set(SERVING),
    "config": set(SERVING),
    "generate": LOADING | set(SAMPLING),
    "probe": LOADING,
    "list": {*FINDING, *NAMING},
    "discover": {*FINDING, *NAMING},
    "plugins": set(),
}


def attributes_of_settings() -> Iterator[str]:
    """What code outside of the settings' own modules reads of objects called ``settings``."""
    for path in (*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")):
        if path.is_relative_to(CORE / "settings"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("settings"):
                yield node.attr


def test_nobody_takes_a_flag_and_ignores_it():
    read = set(attributes_of_settings())
    # Read through properties of the settings.
    assert {"address", "plugin_choice", "sampling"} <= read
    through = {"host", "port", "bind_address", "strict_plugins"}
    unread = {key for key in settings_table() if "." not in key} - read - through
    assert unread == set()


@pytest.mark.parametrize("command", HEEDED)
def test_each_command_takes_the_settings_it_heeds(command):
    group = build()
    parameters = (group if command == "shimmy" else group.get_command(None, command)).params
    shown = {option for each in parameters if not each.hidden for option in each.opts}
    flags = {key: info.flag for key, info in settings_table().items()}
    assert {key for key, flag in flags.items() if flag in shown} == HEEDED[command]


def test_every_command_and_setting_is_accounted_for():
    assert set(HEEDED) == {"shimmy", *COMMANDS}
    assert set(ROOT) | set(SERVING) == set(settings_table())


def test_engines_get_all_their_settings():
    given = {"kv_memory": 5 << 20, "engine_backend": "reference", "plugins.disabled": ["x"], "step_tokens": 7}
    engine = EngineSettings.of(load_settings(given))
    expected = EngineSettings(kv_memory=5 << 20, backend="reference", plugins_disabled=("x",), step_tokens=7)
    assert engine == expected, "other values are the defaults of the settings"


def test_engines_take_no_other_settings():
    fields = set(EngineSettings.__struct_fields__) - {"plugins_enabled", "plugins_disabled", "strict_plugins"}
    assert fields - {"backend"} | {"engine_backend"} == set(ENGINE)
