"""Pages point to pages, sections and files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

ROOT = DOCS.parent
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
#: Where the sources lie; pages may leave out the beginning of a path.
SOURCES = ("shimmy", "plugins", "shaders", "templates", "tests", "examples", ".ci")
FILES = {path.relative_to(ROOT).as_posix() for folder in SOURCES for path in (ROOT / folder).rglob("*")}
#: Examples of files of the reader's own.
YOURS = {"relu2.wgsl", "shimmy_requests.py"}


def anchors(text: str) -> set[str]:
    """What a page's headings are called in links: lower case, hyphens for blanks, no other signs."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path):
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|wgsl|jinja))`", page.read_text(encoding="utf-8"))
    assert [
        name
        for name in named
        if name not in YOURS and name not in FILES and not any(file.endswith(f"/{name}") for file in FILES)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_folders_that_are_named_exist(page: Path):
    folders = re.findall(rf"`((?:{'|'.join(SOURCES)})/[\w/-]+?)/?`", page.read_text(encoding="utf-8"))
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
