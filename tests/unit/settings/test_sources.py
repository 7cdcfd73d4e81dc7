"""Where values come from, who wins, and what is refused by name."""

import os
from pathlib import Path

import pytest

from shimmy.errors import ConfigError
from shimmy.settings import load_settings
from shimmy.settings.sources import user_config_file


@pytest.fixture
def config(tmp_path: Path):
    def write(text: str, path: Path = tmp_path / "given.toml") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_defaults_need_nothing():
    settings = load_settings()
    assert (settings.host, settings.max_sequences, settings.max_ctx) == ("127.0.0.1", 32, None)
    assert str(settings.origin("host")) == "default"


def test_each_source_beats_the_weaker_ones(config, monkeypatch):
    file = config("max_ctx = 1024\nthreads = 1\nstep_tokens = 64\n")
    monkeypatch.setenv("SHIMMY_THREADS", "2")
    monkeypatch.setenv("SHIMMY_STEP_TOKENS", "65")
    settings = load_settings({"step_tokens": "66"}, file)
    assert (settings.max_ctx, settings.threads, settings.step_tokens) == (1024, 2, 66)
    origins = [str(settings.origin(key)) for key in ("max_ctx", "threads", "step_tokens", "host")]
    assert origins == [str(file), "SHIMMY_THREADS", "--step-tokens", "default"]


def test_flags_that_are_not_given_do_not_count(monkeypatch):
    monkeypatch.setenv("SHIMMY_MODEL_PATHS", "here")
    settings = load_settings({"model_paths": [], "threads": None, "base_gguf": ""})
    assert settings.model_paths == (Path("here"),)
    assert (settings.threads, settings.base_gguf) == (None, None)


def test_empty_variables_count_as_unset(monkeypatch):
    monkeypatch.setenv("SHIMMY_PORT", "")
    assert load_settings().port == "auto"


def test_the_file_of_the_working_directory_beats_the_users_own(config):
    user = config("threads = 1", user_config_file())
    try:
        assert load_settings().threads == 1
        here = config("threads = 2", Path("shimmy.toml"))
        assert load_settings().threads == 2
        assert str(load_settings().origin("threads")) == str(here)
    finally:
        user.unlink()


def test_a_named_file_beats_the_one_of_the_working_directory(config, monkeypatch):
    config("threads = 2", Path("shimmy.toml"))
    named = config("threads = 3")
    monkeypatch.setenv("SHIMMY_CONFIG", str(named))
    assert load_settings().threads == 3
    assert load_settings(config=config("threads = 4")).threads == 4


@pytest.mark.parametrize("by", ["--config", "SHIMMY_CONFIG"])
def test_a_named_file_must_exist(by: str, monkeypatch):
    monkeypatch.setenv("SHIMMY_CONFIG", "gone.toml" if by == "SHIMMY_CONFIG" else "")
    with pytest.raises(ConfigError, match=rf"'gone.toml' \(from {by}\) does not exist"):
        load_settings(config=Path("gone.toml") if by == "--config" else None)


def test_a_file_that_is_no_toml(config):
    with pytest.raises(ConfigError, match=r"given.toml cannot be read as TOML: .*line 1"):
        load_settings(config=config("max_ctx: 5"))


def test_paths_in_a_file_are_meant_from_there(config, tmp_path):
    settings = load_settings(config=config('base_gguf = "a.gguf"\nmodel_paths = ["b", "/c"]'))
    assert settings.base_gguf == tmp_path / "a.gguf"
    assert settings.model_paths == (tmp_path / "b", Path("/c"))


def test_a_tilde_is_the_home_folder_everywhere(config, monkeypatch):
    monkeypatch.setenv("SHIMMY_MODELS_DIR", "~/b")
    settings = load_settings({"base_gguf": "~/a"}, config('model_paths = ["~/c"]'))
    assert [settings.base_gguf, settings.models_dir, *settings.model_paths] == [
        Path.home() / name for name in "abc"
    ]


def test_tables_of_several_sources_are_merged(config, monkeypatch):
    monkeypatch.setenv("SHIMMY_PLUGINS__ENABLED", "a,b")
    settings = load_settings(
        {"plugins.disabled": ["b"]}, config('[plugins]\nenabled = ["c"]\n[plugins.settings.x]\ny = 1')
    )
    assert (settings.plugins.enabled, settings.plugins.disabled) == (("a", "b"), ("b",))
    assert settings.plugins.settings == {"x": {"y": 1}}


def test_lists_in_variables_and_flags(monkeypatch):
    monkeypatch.setenv("SHIMMY_MODEL_PATHS", f"a{os.pathsep}b; ~/c ;")
    monkeypatch.setenv("SHIMMY_PLUGINS__DISABLED", "one, two")
    settings = load_settings({"frontends": ["x,y", "z"]})
    assert settings.model_paths == (Path("a"), Path("b"), Path("~/c").expanduser())
    assert settings.plugins.disabled == ("one", "two")
    assert settings.frontends == ("x", "y", "z")


def test_lower_case_and_foreign_variables_are_not_ours(monkeypatch):
    monkeypatch.setenv("SHIMMYX_PORT", "1")
    monkeypatch.setenv("SHIMMY_TRACE_HOOKS", "1")
    assert load_settings().port == "auto"
    if os.name != "nt":
        monkeypatch.setenv("SHIMMY_PORT", "2")
        monkeypatch.setenv("shimmy_port", "3")
        monkeypatch.setenv("shimmy_prot", "4")
        assert load_settings().port == 2


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("SHIMMY_MAX_CXT", "SHIMMY_MAX_CTX"),
        ("SHIMMY_CONFG", "SHIMMY_CONFIG"),
        ("SHIMMY_PLUGINS", "SHIMMY_PLUGINS__ENABLED"),
        ("SHIMMY_PLUGINS__ENABLE", "SHIMMY_PLUGINS__ENABLED"),
        ("SHIMMY_PLUGINS__SETTINGS__LONELY", "SHIMMY_PLUGINS__ENABLED"),
    ],
)
def test_unknown_variables_are_refused(variable: str, near: str, monkeypatch):
    monkeypatch.setenv(variable, "5")
    with pytest.raises(ConfigError, match=rf"the environment has {variable}, .*Did you mean.*'{near}'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("max_cxt = 1", "max_cxt", "max_ctx"),
        ("MAX_CTX = 1", "MAX_CTX", "max_ctx"),
        ("config = 'other.toml'", "config", "Known"),
        ("[origins]\nhost = 1", "origins.host", "host"),
        ("plugins = 1", "plugins", "plugins.enabled"),
        ("[plugins]\nenable = []", "plugins.enable", "plugins.enabled"),
        ("[max_ctx]\nlow = 1", "max_ctx.low", "max_ctx"),
        ("[plugins.settings]\nlonely = 1", "plugins.settings.lonely", "plugins"),
    ],
)
def test_unknown_keys_in_a_file_are_refused(text: str, key: str, near: str, config):
    with pytest.raises(ConfigError, match=f"'{key}' in .*given.toml is no setting. .*{near}") as caught:
        load_settings(config=config(text))
    assert caught.value.param == key
