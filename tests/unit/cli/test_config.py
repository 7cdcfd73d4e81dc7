"""``shimmy config``: values, origins, secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shimmy.settings import settings_table
from shimmy.settings.sources import user_config_file

PLUGIN = """
    from pydantic import BaseModel, SecretStr
    from shimmy import hookimpl
    from shimmy.specs import SettingsSpec

    class Login(BaseModel):
        password: SecretStr = SecretStr("")

    class Table(BaseModel):
        level: int = 3
        token: SecretStr | None = None
        logins: list[Login] = []

    @hookimpl
    def register_settings(register):
        register(SettingsSpec("my-plugin", lambda: Table))
"""


def test_all_settings_with_their_defaults(run):
    code, out, err = run("config")
    assert (code, err) == (0, "")
    file, address, blank, header, *rows = out.splitlines()
    assert (file, address) == ("configuration file: none", "listens on: 127.0.0.1:auto")
    assert (blank, header.split()) == ("", ["SETTING", "VALUE", "FROM"])
    assert [row.split() for row in rows] == [
        [key, info.default, "default"] for key, info in settings_table().items()
    ]


def test_each_source_is_named(run, monkeypatch):
    Path("shimmy.toml").write_text('max_ctx = 2048\nmodel_paths = ["a", "b"]\n')
    monkeypatch.setenv("SHIMMY_THREADS", "3")
    file = str(Path("shimmy.toml").absolute())
    result = json.loads(run("--log-level", "error", "config", "--port", "8000", "--json")[1])
    assert result["config_file"] == file
    settings = result["settings"]
    assert settings["max_ctx"] == {"value": 2048, "source": "file", "from": "shimmy.toml"}
    assert settings["threads"] == {"value": 3, "source": "environment", "from": "SHIMMY_THREADS"}
    assert settings["port"] == {"value": 8000, "source": "flag", "from": "--port"}
    assert settings["log_level"] == {"value": "error", "source": "flag", "from": "--log-level"}
    assert settings["host"] == {"value": "127.0.0.1", "source": "default", "from": "default"}
    assert settings["model_paths"]["value"] == ["a", "b"]
    assert "a, b" in run("config")[1]


@pytest.mark.parametrize(
    ("flags", "shown", "address"),
    [
        (("--bind", "[::1]:80"), "[::1]:80", {"host": "::1", "port": 80}),
        (("--host", "0.0.0.0"), "0.0.0.0:auto", {"host": "0.0.0.0", "port": "auto"}),
        # A flag is stronger than the variable, whichever says more.
        (("--port", "8000"), "127.0.0.1:8000", {"host": "127.0.0.1", "port": 8000}),
    ],
)
def test_the_address_that_host_port_and_bind_address_come_to(run, monkeypatch, flags, shown, address):
    monkeypatch.setenv("SHIMMY_BIND_ADDRESS", "192.0.2.1:9")
    assert f"listens on: {shown}\n" in run("config", *flags)[1]
    assert json.loads(run("config", *flags, "--json")[1])["address"] == address


def test_the_file_in_use(run, tmp_path):
    usual = user_config_file()
    usual.parent.mkdir(parents=True, exist_ok=True)
    usual.write_text("")
    try:
        assert json.loads(run("config", "--json")[1])["config_file"] == str(usual)
    finally:
        usual.unlink()
    named = tmp_path / "mine.toml"
    named.write_text("")
    assert json.loads(run("--config", str(named), "config", "--json")[1])["config_file"] == str(named)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_secrets_are_never_shown(run, monkeypatch, install_plugin, form):
    install_plugin("mine", PLUGIN)
    Path("shimmy.toml").write_text(
        '[plugins.settings.my-plugin]\ntoken = "hidden"\nlogins = [{password = "hidden"}]\n'
    )
    monkeypatch.setenv("SHIMMY_API_KEY", "hidden")
    monkeypatch.setenv("SHIMMY_PLUGINS__SETTINGS__MY_PLUGIN__LEVEL", "5")
    code, out, err = run("config", *form)
    assert code == 0
    assert "hidden" not in out + err
    assert "****" in out
    if form:
        settings = json.loads(out)["settings"]
        assert settings["api_key"] == {"value": "****", "source": "environment", "from": "SHIMMY_API_KEY"}
        own = "plugins.settings.my_plugin"
        assert settings[f"{own}.level"]["value"] == 5
        assert settings[f"{own}.level"]["from"] == "SHIMMY_PLUGINS__SETTINGS__MY_PLUGIN__LEVEL"
        assert settings[f"{own}.token"]["value"] == "****"
        assert settings[f"{own}.logins"]["value"] == [{"password": "****"}]


def test_an_invalid_file_is_exit_code_2(run):
    Path("shimmy.toml").write_text("max_cxt = 2048")
    code, out, err = run("config")
    assert (code, out) == (2, "")
    assert "'max_cxt' in shimmy.toml is no setting" in err
    Path("shimmy.toml").write_text("max_ctx = ")
    assert run("config")[0] == 2
