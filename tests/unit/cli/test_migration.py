"""Command lines and environments of the earlier servers of this name."""

from __future__ import annotations

import json
import os

import pytest

from shimmy.cli.app import COMMANDS, build
from shimmy.cli.migration import GONE_COMMANDS, GONE_FLAGS, GONE_VARIABLES, OLD_FLAGS, advice_on
from shimmy.settings import settings_table
from tests import zoo

MODELS = zoo.FOLDER / "models"


def test_old_flags_set_what_they_always_set(run):
    settings = json.loads(run("config", "--ctx", "4096", "--model-dirs", "a;b", "--json")[1])["settings"]
    assert settings["max_ctx"] == {"value": 4096, "source": "flag", "from": "--max-ctx"}
    assert settings["model_paths"]["value"] == ["a", "b"]


def test_old_flags_may_come_before_the_command(run):
    code, out, _ = run("--model-dirs", str(MODELS), "--ctx", "4096", "config", "--json")
    assert code == 0
    assert json.loads(out)["settings"]["max_ctx"]["value"] == 4096
    assert "llama_spm.q4_k_m" in run("--model-dirs", str(MODELS), "list")[1]
    settings = json.loads(run("--ctx", "4096", "config", "--max-ctx", "512", "--json")[1])["settings"]
    assert settings["max_ctx"]["value"] == 512


def test_one_file_is_served_by_its_old_flag(run):
    path = str(zoo.model_path("llama_spm.q4_0"))
    [card] = json.loads(
        run("--without", "source-python-packages", "list", "--model-path", path, "--json")[1]
    )["models"]
    assert card["path"] == path


@pytest.mark.parametrize("key", OLD_FLAGS)
def test_serve_takes_the_old_flags_without_showing_them(run, key):
    [option] = [each for each in build().get_command(None, "serve").params if OLD_FLAGS[key] in each.opts]
    assert option.hidden
    assert key in settings_table()


def test_names_only_and_language_models_only(run):
    arguments = ("--without", "source-python-packages", "--model-dirs", str(MODELS))
    names = run(*arguments, "list", "--short")[1].split()
    assert names == run(*arguments, "list", "-s")[1].split() == sorted(names)
    assert "llama_spm.q4_k_m" in names
    assert run(*arguments, "discover", "--llm-only") == run(*arguments, "discover")


@pytest.mark.parametrize("flag", GONE_FLAGS)
def test_what_is_gone_gets_a_hint(run, flag):
    for arguments in ((flag, "serve"), ("serve", flag), ("serve", f"{flag}=x")):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.endswith(f"\nhint: {GONE_FLAGS[flag]}\n")


@pytest.mark.parametrize("command", GONE_COMMANDS)
def test_commands_that_are_gone_get_a_hint(run, command):
    for arguments in ((command, "--template", "docker"), (command,)):
        code, _, err = run(*arguments)
        assert code == 2
        assert err.endswith(f"\nhint: {GONE_COMMANDS[command]}\n")


def test_other_mistakes_get_none(run):
    assert advice_on(["serve", "--prot", "80"]) is None
    assert "hint:" not in run("serve", "--prot", "80")[2]
    assert "hint:" not in run("init", "quant", "Q4_X", "--ggml-id", "-1")[2]


def test_nothing_that_is_there_is_called_gone():
    assert not set(GONE_COMMANDS) & set(COMMANDS)
    flags = {info.flag for info in settings_table().values()}
    assert not set(GONE_FLAGS) & flags
    assert not set(GONE_VARIABLES) & {info.variable for info in settings_table().values()}


@pytest.mark.parametrize("variable", GONE_VARIABLES)
def test_variables_that_are_gone_are_refused(run, monkeypatch, variable):
    monkeypatch.setenv(variable, "x")
    code, out, err = run("list")
    assert (code, out) == (2, "")
    hint = GONE_VARIABLES[variable]
    assert err == f"error: the environment has {variable}, which shimmy does not take.\nhint: {hint}\n"


def test_an_old_engine_gets_a_hint(run, monkeypatch):
    monkeypatch.setenv("SHIMMY_ENGINE_BACKEND", "llama")
    code, _, err = run("config")
    assert code == 2
    assert "engine_backend is 'llama' (from SHIMMY_ENGINE_BACKEND): " in err


def test_the_name_of_the_old_gpu_engine_is_one_of_the_new_one_s(run, monkeypatch, plugins):
    monkeypatch.setenv("SHIMMY_ENGINE_BACKEND", "airframe")
    assert run("config")[0] == 0
    assert plugins.backends.get("airframe").name == "wgpu"


def test_an_empty_variable_counts_as_not_set(run, monkeypatch):
    monkeypatch.setenv("SHIMMY_LORA_GGUF", "")
    assert os.environ["SHIMMY_LORA_GGUF"] == ""
    assert run("config")[0] == 0
