"""The second pass: values that plugins define."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from shimmy import hookimpl
from shimmy.errors import ConfigError, RegistryError
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


def test_the_checked_tables_are_at_hand_for_plugins(tea, monkeypatch):
    with pytest.raises(RegistryError, match="no checked settings table 'tea-pot'. None are known."):
        tea.settings_of("tea-pot")
    monkeypatch.setenv("SHIMMY_PLUGINS__SETTINGS__TEA_POT__MINUTES", "7")
    checked(tea)
    assert tea.settings_of("tea-pot") == Tea(minutes=7)
    with pytest.raises(RegistryError, match="no checked settings table 'teapot'. Did you mean 'tea-pot'?"):
        tea.settings_of("teapot")


def test_file_and_environment_fill_one_table(tea, tmp_path, monkeypatch):
    file = tmp_path / "x.toml"
    file.write_text('[plugins.settings.tea-pot]\nminutes = 5\nkinds = ["green"]')
    monkeypatch.setenv("SHIMMY_PLUGINS__SETTINGS__TEA_POT__MINUTES", "7")
    settings = load_settings(config=file)
    assert check_plugin_settings(settings, tea) == {"tea-pot": Tea(minutes=7, kinds=["green"])}
    assert str(settings.origin("plugins.settings.tea_pot.kinds")) == str(file)


def test_a_variable_may_hold_the_delimiter_in_its_key(monkeypatch):
    monkeypatch.setenv("SHIMMY_PLUGINS__SETTINGS__ANY__ONE__TWO", "[1]")
    settings = load_settings()
    assert settings.plugins.settings == {"any": {"one__two": "[1]"}}
    assert str(settings.origin("plugins.settings.any.one__two")) == "SHIMMY_PLUGINS__SETTINGS__ANY__ONE__TWO"


def test_two_spellings_of_a_name_are_one_table(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("[plugins.settings.tea-pot]\na = 1\n[plugins.settings.tea_pot]\nb = 2")
    assert load_settings(config=file).plugins.settings == {"tea_pot": {"a": 1, "b": 2}}


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


def test_a_wrong_value_deep_in_a_table_has_the_origin_of_its_key(tea, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text('[plugins.settings.tea-pot]\nkinds = ["green", 5]')
    with pytest.raises(ConfigError, match=r"tea_pot.kinds.1 is 5 \(from .*x.toml\): "):
        check_plugin_settings(load_settings(config=file), tea)


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
