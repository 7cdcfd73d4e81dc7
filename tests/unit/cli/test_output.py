"""What is printed drives no terminal, whatever files are called."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from shimmy.cli.output import (
    print_error,
    print_facts,
    print_json,
    print_table,
    printable,
    readable_context,
)
from shimmy.errors import ModelError
from tests import zoo

NASTY = "a\x1b[2J\nb\x9bc\u202ed\udcff"
HARMLESS = r"a\x1b[2J\nb\x9bc\u202ed\udcff"


def test_printable() -> None:
    assert printable(NASTY) == HARMLESS
    assert printable("Grüße, 世界 [x] \\ 😀") == "Grüße, 世界 [x] \\ 😀"


def test_tables_facts_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [(NASTY,)])
    print_facts([("name", NASTY)])
    print_error("error", ModelError(f"first: {NASTY}", hint=NASTY))
    printed = capsys.readouterr()
    assert printed.out == f"NAME\n{HARMLESS}\nname  {HARMLESS}\n"
    lines = HARMLESS.replace(r"\n", "\n")
    assert printed.err == f"error: first: {lines}\nhint: {lines}\n"


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": NASTY, "path": Path("ü")})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": NASTY, "path": "ü"}
    assert printed.isascii() is False
    assert not set(printed) & {"\x1b", "\x9b", "\u202e", "\udcff"}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_files_of_any_name(run, tmp_path: Path) -> None:
    for name in ("good.gguf", "two\nlines.gguf", "not\udcfftext.gguf"):
        shutil.copy(zoo.model_path("llama_spm.q4_0"), tmp_path / name)
    code, out, _ = run("list", "--short", "--models-dir", str(tmp_path))
    assert code == 0
    assert {"good", r"two\nlines"} <= set(out.splitlines())
    assert "text" not in out
    code, out, _ = run("list", "--all", "--models-dir", str(tmp_path))
    assert code == 0
    [row] = [line for line in out.splitlines() if r"not\udcfftext.gguf" in line]
    assert row.endswith("is not UTF-8.")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ((600, 1024, "none", 1.0), "600 tokens (native 1024)"),
        ((1024, 1024, "llama3", 1.0), "1024 tokens (native 1024, llama3)"),
        ((2048, 1024, "yarn", 2.0), "2048 tokens (native 1024, yarn \N{MULTIPLICATION SIGN}2)"),
    ],
)
def test_the_context_in_words(facts: tuple[int, int, str, float], text: str) -> None:
    assert readable_context(*facts) == text
