"""docs/troubleshooting.md explains each error code there is, with its status."""

import ast
import functools
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import shimmy
import shimmy_plugins
from shimmy.errors import ShimmyError
from tests.docs.pages import page

PAGE = "troubleshooting.md"
ROOTS = [Path(module.__file__).parent for module in (shimmy, shimmy_plugins)]
#: Their classes have a status, but never answer a request of their own.
NO_STATUS = {"invalid_config", "plugin_error"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Each module of the product: its name and its syntax tree."""
    for root in ROOTS:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def error_classes(kind: type[ShimmyError] = ShimmyError) -> Iterator[type[ShimmyError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from error_classes(child)


@functools.cache
def codes() -> dict[str, str]:
    """Each code and its status: of all classes of errors, and given to HTTPError as it is raised."""
    found = {}
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                import_module(name.removesuffix(".__init__"))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "HTTPError":
                status, code = node.args[:2]
                if isinstance(status, ast.Constant):
                    found[ast.literal_eval(code)] = str(status.value)
    ours = (kind for kind in error_classes() if kind.__module__.startswith(("shimmy.", "shimmy_plugins.")))
    return found | {kind.code: str(kind.status) for kind in ours}


def rows() -> dict[str, list[str]]:
    """The page's rows by code."""
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", page(PAGE), re.MULTILINE)
    return {code: rest.split(" | ") for code, rest in lines}


def test_exactly_the_codes_that_exist_are_explained():
    assert sorted(rows()) == sorted(codes())


@pytest.mark.parametrize("code", sorted(rows()))
def test_each_has_status_cause_and_remedy(code):
    status, cause, remedy = rows()[code]
    assert cause
    assert remedy
    if code == "http_error":
        assert status == "4xx"
    elif code not in NO_STATUS:
        assert status == codes()[code]
