"""Every library that is imported is asked for in pyproject.toml, and the other way round."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import shimmy
import shimmy_plugins

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = (Path(shimmy.__file__).parent, Path(shimmy_plugins.__file__).parent)
SOURCES = packages_distributions()
#: Comes in exactly one version with pydantic.
WITH_OTHERS = {"pydantic_core": "pydantic"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def asked_for(*extras: str) -> set[str]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for each in lists for requirement in each}


def distributions(library: str) -> set[str]:
    """Those that a module may come from, here."""
    found = SOURCES.get(WITH_OTHERS.get(library, library), ())
    return {normal(name) for name in found}


def imported() -> set[str]:
    trees = (ast.parse(path.read_text("utf-8")) for folder in PACKAGES for path in folder.rglob("*.py"))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules = plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    libraries = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    return {name for name in libraries if not name.startswith(("shimmy", "_"))}


def test_what_is_imported_is_asked_for():
    # Those who use the conformance kit have pytest.
    asked = asked_for("bench") | {"pytest"}
    assert {name for name in imported() if asked.isdisjoint(distributions(name))} == set()


def test_what_is_asked_for_is_imported():
    used = set().union(*map(distributions, imported()))
    assert asked_for() - used == set()
