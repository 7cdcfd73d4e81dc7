"""``shimmy init`` writes packages that can be installed beside shimmy, and whose tests pass as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from shimmy.cli import main
from shimmy.plugins import load_plugins

SKELETONS = {
    "architecture": ("tiny-former2", "shimmy-arch-tiny-former2"),
    "quant": ("Q4_X", "shimmy-quant-q4-x"),
}
#: What would be no good name for a class in Python, or is one of the skeleton's own.
ODD = ("none", "true", "class", "architecture-spec", "parameters")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both skeletons, written and installed: a pure wheel is installed by unpacking it."""
    folder = tmp_path_factory.mktemp("init")
    for kind, (name, distribution) in SKELETONS.items():
        assert main(["init", kind, name, str(folder / distribution)]) == 0
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
        subprocess.run(build, cwd=folder / distribution, check=True, capture_output=True)
    for wheel in (folder / "dist").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder


def run(folder: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_they_are_plugins_like_any_other(written: Path):
    rows = {row["name"]: row for row in json.loads(run(written, "shimmy", "plugins", "--json").stdout)}
    for _, distribution in SKELETONS.values():
        assert (rows[distribution]["status"], rows[distribution]["distribution"]) == ("loaded", distribution)


@pytest.mark.parametrize("kind", SKELETONS)
def test_their_tests_pass(written: Path, kind: str):
    result = run(
        written, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", cwd=written / SKELETONS[kind][1]
    )
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


def test_they_are_in_good_style(written: Path):
    places = [str(written / distribution) for _, distribution in SKELETONS.values()]
    for check in (("check", "--select", "A,B,C4,E,F,I,N,PT,SIM,UP,W"), ("format", "--check")):
        result = run(written, "ruff", *check, "--isolated", "--line-length", "110", "--no-cache", *places)
        assert result.returncode == 0, result.stdout


def test_they_are_typed(written: Path):
    for _, distribution in SKELETONS.values():
        folder = written / distribution
        files = [str(path.relative_to(folder)) for path in folder.rglob("*.py")]
        cache = str(written / "mypy")
        result = run(written, "mypy", "--strict", "--cache-dir", cache, *files, cwd=folder)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ODD)
def test_any_name_makes_a_module_that_can_be_imported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "package"
    assert main(["init", "architecture", name, str(folder)]) == 0
    [source] = folder.glob("shimmy_arch_*.py")
    module = ModuleType(source.stem)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source.read_text(), source, "exec"), vars(module))
    assert load_plugins(extra=[module]).architectures.get(name).load().params


def test_names_and_folders_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    wrong = {
        ("architecture", "llama"): "the architecture 'llama' is there already",
        ("architecture", "My Model"): "'My Model' is no name of a new architecture",
        ("architecture", "../away"): "'../away' is no name of a new architecture",
        ("quant", "q4_x"): "'q4_x' is no name of a new quant; expected one like 'Q4_X'",
        ("quant", "Q8_0"): "the type 'Q8_0' is there already",
        ("quant", "Q4_X", "--ggml-id", "2"): "2 is the number of Q4_0",
        ("quant", "Q4_X", "--ggml-id", "28"): "28 is the number of F64",
        ("quant", "Q4_X", "--ggml-id", "4294967296"): "less than or equal to 4294967295",
        ("architecture", "x" * 300): "cannot be written",
    }
    for arguments, message in wrong.items():
        assert main(["init", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "quant", "Q4_X"]) == 0
    assert "pytest shimmy-quant-q4-x" in capsys.readouterr().out
    mine = tmp_path / "shimmy-quant-q4-x" / "shimmy_quant_q4_x.py"
    mine.write_text("mine")
    assert main(["init", "quant", "Q4_X"]) == 2
    assert "shimmy-quant-q4-x is there already and stays as it is" in capsys.readouterr().err
    assert mine.read_text() == "mine"
