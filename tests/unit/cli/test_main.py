"""The command line from outside: what is printed, and exit codes."""

import json
import sys
from pathlib import Path

import pytest

from shimmy import __version__
from shimmy.cli import foreign_shimmy
from shimmy.cli.app import COMMANDS


@pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["--log-level", "error", "--version"]])
def test_version(run, arguments):
    assert run(*arguments) == (0, f"shimmy {__version__}\n", "")


def test_help_lists_all_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"  {command} " in out


def test_help_survives_a_broken_configuration(run, monkeypatch):
    monkeypatch.setenv("SHIMMY_PORT", "none")
    assert run("--help")[0] == 0


def test_wrong_usage_is_exit_code_2(run):
    code, _, err = run("plugns")
    assert code == 2
    assert "Did you mean 'plugins'" in err
    assert run("plugins", "--no-such-option")[0] == 2


def test_wrong_configuration_is_exit_code_2(run, monkeypatch):
    monkeypatch.setenv("SHIMMY_MAX_CXT", "5")
    code, out, err = run("list")
    assert (code, out) == (2, "")
    assert err.startswith("error: the environment has SHIMMY_MAX_CXT")
    assert "\nhint: Did you mean 'SHIMMY_MAX_CTX'" in err


def test_a_failure_is_exit_code_1(run, install_plugin):
    install_plugin("broken", "import there_is_no_such_library")
    code, _, err = run("--strict-plugins", "plugins")
    assert code == 1
    assert "error: plugin broken (other) failed to load" in err


def test_plugins_lists_status_and_reason(run, install_plugin):
    install_plugin("broken", "import there_is_no_such_library")
    code, out, _ = run("--without", "arch-llama", "plugins")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert rows["NAME"].split() == ["NAME", "DISTRIBUTION", "VERSION", "STATUS", "HOOKS", "OR", "REASON"]
    assert rows["arch-llama"].endswith("disabled  named in plugins.disabled")
    assert "failed" in rows["broken"]
    assert "there_is_no_such_library" in rows["broken"]


def test_plugins_as_json(run):
    rows = json.loads(run("plugins", "--json")[1])
    assert set(rows[0]) == {"name", "distribution", "version", "status", "detail", "hooks"}


def test_with_loads_only_what_is_named(run):
    rows = json.loads(run("--with", "arch-llama", "--with", "quant-f32,quant-f16", "plugins", "--json")[1])
    assert [row["name"] for row in rows if row["status"] == "loaded"] == [
        "arch-llama",
        "quant-f16",
        "quant-f32",
    ]


def test_a_configuration_file_can_be_named(run, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('plugins.disabled = ["arch-llama"]')
    rows = json.loads(run("--config", str(file), "plugins", "--json")[1])
    assert next(row for row in rows if row["name"] == "arch-llama")["status"] == "disabled"


@pytest.fixture
def only_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMMY_PLUGINS__DISABLED", "source-python-packages")


@pytest.mark.usefixtures("only_folders")
def test_list_without_models_says_what_to_do(run):
    code, out, _ = run("list")
    assert code == 0
    assert "--models-dir" in out


@pytest.mark.usefixtures("only_folders")
def test_list_shows_models_and_with_all_what_was_skipped(run):
    zoo = Path(__file__).parents[2] / "fixtures/zoo/models"
    broken = Path("models/broken.gguf")
    broken.parent.mkdir()
    broken.write_bytes(b"GGUF")
    code, out, _ = run("list", "--models-dir", str(zoo), "--all")
    assert code == 0
    assert "llama_spm.q4_k_m " in out
    assert "broken.gguf" in out
    listing = json.loads(run("list", "--models-dir", str(zoo), "--all", "--json")[1])
    card = next(card for card in listing["models"] if card["name"] == "llama_spm.q4_k_m")
    assert (card["architecture"], card["quantization"], card["context_length"]) == ("llama", "Q4_K", 1024)
    assert any("broken.gguf" in row["path"] for row in listing["skipped"])
    assert "skipped" not in json.loads(run("list", "--json")[1])


COMMAND = """
    from shimmy import hookimpl

    @hookimpl
    def register_commands(app):
        @app.command("{name}")
        def command():
            \"\"\"Say hello.\"\"\"
            print("hello from a plugin")
"""


def test_a_plugin_adds_a_command(run, install_plugin):
    install_plugin("greeter", COMMAND.format(name="greet"))
    assert run("greet") == (0, "hello from a plugin\n", "")
    assert "Say hello." in run("--help")[1]
    assert run("--without", "greeter", "greet")[0] == 2


def test_two_plugins_may_not_add_one_command(run, install_plugin):
    install_plugin("greeter", COMMAND.format(name="greet"))
    install_plugin("rival", COMMAND.format(name="greet"), distribution="another")
    code, _, err = run("greet")
    assert code == 1
    assert "command 'greet' is claimed twice" in err


def test_a_plugin_may_not_replace_a_command(run, install_plugin):
    install_plugin("usurper", COMMAND.format(name="serve"))
    code, _, err = run("something-else")
    assert code == 1
    assert "command 'serve' is claimed twice: by" in err
    assert "usurper" in err


@pytest.mark.parametrize("name", ["shimmy-1.3.0.dist-info", "Shimmy-2.0.egg-info"])
def test_the_unrelated_distribution_is_noticed(run, monkeypatch, tmp_path, name):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    code, _, err = run("--version")
    assert code == 2
    assert "pip uninstall shimmy && pip install --force-reinstall shimmy-llm" in err


def test_our_own_distribution_is_no_clash(tmp_path):
    (tmp_path / "shimmy_llm-0.1.0.dist-info").mkdir()
    (tmp_path / "shimmy").mkdir()
    assert foreign_shimmy([str(tmp_path), "/gone"]) is None
