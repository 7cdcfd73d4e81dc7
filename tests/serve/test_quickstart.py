"""The commands and programs of docs/quickstart.md, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.server_process import ServerProcess

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("language", "source"), BLOCKS)
def test_it_gives_an_answer(language: str, source: str, real_server: ServerProcess) -> None:
    source = source.replace("http://127.0.0.1:11435", real_server.url)
    command = ["sh", "-c", source] if language == "bash" else [sys.executable, "-c", source]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 3
    assert '"error"' not in result.stdout


def test_there_are_examples() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
