"""Made-up programs of others."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def on_path(monkeypatch, tmp_path) -> Callable[[str, str], Path]:
    """Puts a program on PATH, alone there; ``{python}`` in its text is this interpreter."""

    def put(name: str, text: str) -> Path:
        program = tmp_path / name
        program.write_text(text.format(python=sys.executable))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return program

    return put
