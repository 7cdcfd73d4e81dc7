"""Every built-in plugin comes in through an entry point, and each entry point is a plugin."""

import ast
from importlib.metadata import distribution
from pathlib import Path

import pytest

import shimmy_plugins
from shimmy.plugins import Plugins

ROOT = Path(shimmy_plugins.__file__).parent


def has_hook(path: Path) -> bool:
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return any("hookimpl" in ast.unparse(mark) for function in functions for mark in function.decorator_list)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_entry_points_are_the_modules_that_implement_hooks():
    listed = {point.value for point in distribution("shimmy-llm").entry_points if point.group == "shimmy"}
    assert listed == {module_name(path) for path in ROOT.rglob("*.py") if has_hook(path)}


def test_built_in_plugins_load(plugins: Plugins):
    ours = [info for info in plugins.infos if info.distribution == "shimmy-llm"]
    assert ours
    assert {info.name: info.detail for info in ours if info.status != "loaded"} == {}
    assert [info.name for info in ours if not info.hooks] == []


@pytest.mark.parametrize("kind", ["architectures", "quant_types", "tokenizers", "frontends", "backends"])
def test_built_in_plugins_bring_what_serving_needs(plugins: Plugins, kind: str):
    assert len(getattr(plugins, kind)) > 0
