"""The core runs with no plugin at all."""

from pathlib import Path

import pytest

from shimmy.cli import main
from shimmy.discovery.catalog import Catalog
from shimmy.errors import ModelNotFoundError
from shimmy.plugins import PluginChoice, Plugins, load_plugins
from shimmy.settings import Settings, check_plugin_settings


@pytest.fixture
def none() -> Plugins:
    return load_plugins(PluginChoice(enabled=()))


def test_nothing_is_loaded_and_everything_is_listed(none: Plugins):
    assert none.infos
    assert {info.status for info in none.infos} == {"disabled"}
    assert {info.detail for info in none.infos} == {"not named in plugins.enabled"}


def test_registries_are_empty_and_questions_open(none: Plugins):
    assert len(none.architectures) == len(none.frontends) == len(none.backends) == 0
    assert none.resolve_model("anything") is None


def test_settings_need_no_plugin(none: Plugins):
    assert check_plugin_settings(Settings(), none) == {}


def test_catalog_is_empty_and_gives_advice(none: Plugins):
    catalog = Catalog(Settings(), none)
    assert catalog.models() == []
    assert catalog.skipped == []
    with pytest.raises(ModelNotFoundError, match="--base-gguf"):
        catalog.default()


@pytest.mark.parametrize("command", ["plugins", "list"])
def test_commands_run(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "none.toml"
    config.write_text("plugins.enabled = []\n")
    assert main(["--config", str(config), command]) == 0
    assert capsys.readouterr().out
