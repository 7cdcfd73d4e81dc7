"""The house of docs/architecture.md: imports point downwards, and the core names nothing that is built in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shimmy
from shimmy.plugins import Plugins

CORE = Path(shimmy.__file__).parent
#: What imports only what stands before it, and itself; folders, and modules of the core's own.
FLOORS = (
    "errors",
    *("caches", "events", "files", "registry", "specs", "hookspecs", "hooks", "plugins"),
    *("gguf", "graph", "text", "huggingface", "lora", "settings"),
    *("engine", "discovery", "server", "testing", "cli"),
)
#: Words of the core that architectures and engines are called by, too: values of ``tokenizer.ggml.model``, a
#: control group, an engine of an earlier server.
OTHERWISE = {
    ("huggingface/sentencepiece.py", "llama"),
    ("huggingface/tokenizer.py", "gpt2"),
    ("huggingface/tokenizer.py", "llama"),
    ("settings/problems.py", "llama"),
    ("engine/machine.py", "cpu"),
}

MODULES = sorted(CORE.rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def floor(path: Path) -> str:
    """The folder or module of the core that a file belongs to."""
    return path.relative_to(CORE).with_suffix("").parts[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported, in functions too, but for those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            # A name may be a module of the package.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts, but for comments and docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.value


def test_the_floors_are_all_there_is():
    light = {"__init__", "__main__"}
    assert {floor(path) for path in MODULES} - light == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(CORE).as_posix())
def test_imports_point_downwards(path: Path):
    own = floor(path)
    below = FLOORS[: FLOORS.index(own) + 1] if own in FLOORS else FLOORS
    names = [name for name in imported(parsed(path)) if name.partition(".")[0] == "shimmy"]
    # Of the package itself: what a plugin needs at import time.
    used = {name.split(".")[1] for name in names} - set(shimmy.__all__)
    assert used <= set(below)


def test_no_plugin_is_imported():
    names = {name.partition(".")[0] for path in MODULES for name in imported(parsed(path))}
    assert not names & {"shimmy_plugins", "shimmy_shaders", "shimmy_templates"}
    assert "numpy" in names, "and others are seen"


def test_no_architecture_and_no_engine_is_named(plugins: Plugins):
    names = {*plugins.architectures.names(), *plugins.backends.names()}
    found = {
        (path.relative_to(CORE).as_posix(), text)
        for path in MODULES
        for text in texts(parsed(path))
        if text in names
    }
    assert found == OTHERWISE


def test_no_route_is_named(plugins: Plugins):
    routes = {route.partition(" ")[2] for frontend in plugins.frontends for route in frontend.routes}
    assert len(routes) > 10
    words = (
        word.strip("`'\",.;:()") for path in MODULES for text in texts(parsed(path)) for word in text.split()
    )
    assert not routes & set(words)
