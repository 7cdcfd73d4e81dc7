"""docs/quickstart.md and docs/api.md: their commands and programs run as they stand, nothing is left out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shimmy.errors import ShimmyError
from shimmy.plugins import Plugins
from tests.serve.server_process import ServerProcess

DOCS = Path(__file__).parents[2] / "docs"
API = (DOCS / "api.md").read_text("utf-8")
PAGES = [(DOCS / "quickstart.md").read_text("utf-8"), API]
BLOCK = re.compile(r"^```(bash|python|javascript)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [block for page in PAGES for block in BLOCK.findall(page)]

RUN = {
    "bash": ["sh", "-c"],
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--experimental-websocket", "-e"],
}


@pytest.mark.parametrize(("language", "source"), BLOCKS)
def test_it_gives_an_answer(language: str, source: str, real_server: ServerProcess) -> None:
    if not shutil.which(RUN[language][0]):
        pytest.skip(f"there is no {RUN[language][0]} here")
    source = source.replace("127.0.0.1:11435", real_server.url.removeprefix("http://"))
    result = subprocess.run([*RUN[language], source], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 3 or len(result.stdout) > 50
    assert '"error"' not in result.stdout


def test_there_are_examples() -> None:
    assert {language for language, _ in BLOCKS} == set(RUN)


def test_every_route_is_documented(plugins: Plugins) -> None:
    rows = set(re.findall(r"^\| `([A-Z]+ /[^`]+)` \| `(\w+)` \|", API, re.MULTILINE))
    assert rows == {(route, spec.name) for spec in plugins.frontends for route in spec.routes}


def test_every_error_is_documented() -> None:
    """With its code, and its status where the class has one."""
    rows = re.findall(r"^\| (\d+|other 4xx) \| (.*?) \|", API, re.MULTILINE)
    documented = {code: status for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    classes = set()
    stack = [ShimmyError]
    while stack:
        stack.extend(subclasses := stack.pop().__subclasses__())
        classes |= {each for each in subclasses if each.__module__.startswith("shimmy")}
    for each in classes:
        assert each.code in documented, each
        if each.code != "http_error":
            assert documented[each.code] == str(each.status), each
