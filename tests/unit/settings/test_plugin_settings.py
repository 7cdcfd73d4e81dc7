"""The second pass: values that plugins define."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from shimmy import hookimpl
from shimmy.errors import ConfigError
from shimmy.plugins import PluginChoice, Plugins, load_plugins
from shimmy.settings import check_plugin_settings, load_settings
from shimmy.specs import BackendSpec, FrontendSpec, SettingsSpec


class Tea(BaseModel):
    model_config = ConfigDict(extra="forbid")
    minutes: int = Field(default=3, le=10)
    kinds: list[str] = []


class TeaPlugin:
    @hookimpl
    def register_settings(self, register):
        register(SettingsSpec("tea-pot", lambda: Tea))

    @hookimpl
    def register_backends(self, register):
        register(BackendSpec("abacus", 1, lambda: None, lambda: None))

    @hookimpl
    def register_api_frontends(self, register):
        register(FrontendSpec("gopher", (), lambda: None))


@pytest.fixture
def tea() -> Plugins:
    return load_plugins(PluginChoice(enabled=()), extra=[TeaPlugin()])


def checked(plugins: Plugins, **flags: str):
    return check_plugin_settings(load_settings(flags), plugins)


def test_a_plugin_gets_its_defaults(tea):
    assert checked(tea) == {"tea-pot": Tea()}


def test_file_and_environment_fill_one_table(tea, tmp_path, monkeypatch):
    file = tmp_path / "x.toml"
    file.write_text('[plugins.settings.tea-pot]\nminutes = 5\nkinds = ["green"]')
    monkeypatch.setenv("SHIMMY_PLUGINS__SETTINGS__TEA_POT__MINUTES", "7")
    settings = load_settings(config=file)
    assert check_plugin_settings(settings, tea) == {"tea-pot": Tea(minutes=7, kinds=["green"])}
    assert str(settings.origin("plugins.settings.tea_pot.kinds")) == str(file)


def test_nested_tables_reach_the_plugin_whole(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text('[plugins.settings.any.deep]\n"a.b" = {c = 1}')
    assert load_settings(config=file).plugins.settings == {"any": {"deep": {"a.b": {"c": 1}}}}


@pytest.mark.parametrize(("key", "value"), [("MINUTES", "11"), ("MINUTES", "soon"), ("SUGAR", "1")])
def test_a_wrong_value_names_key_and_source(tea, monkeypatch, key: str, value: str):
    variable = f"SHIMMY_PLUGINS__SETTINGS__TEA_POT__{key}"
    monkeypatch.setenv(variable, value)
    expected = rf"plugins.settings.tea_pot.{key.lower()} is '{value}' \(from {variable}\): "
    with pytest.raises(ConfigError, match=expected):
        checked(tea)


def test_a_table_without_a_plugin(tea, monkeypatch):
    monkeypatch.setenv("SHIMMY_PLUGINS__SETTINGS__TEA_PT__MINUTES", "1")
    with pytest.raises(ConfigError, match=r"\[plugins.settings.tea_pt\] .*Did you mean 'tea_pot'"):
        checked(tea)


def test_engine_and_frontends_must_be_registered(tea):
    checked(tea, engine_backend="abacus", frontends="gopher")
    with pytest.raises(
        ConfigError, match=r"engine_backend names 'abacas' \(from --engine-backend\).*'abacus'"
    ):
        checked(tea, engine_backend="abacas")
    with pytest.raises(ConfigError, match=r"frontends names 'gofer' .*'gopher'"):
        checked(tea, frontends="gofer")
