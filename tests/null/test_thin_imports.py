"""Starting costs little: what is heavy is imported by whoever needs it, when it is needed."""

import subprocess
import sys

import pytest

HEAVY = {"numpy", "wgpu", "llvmlite", "quart", "jinja2", "tokenizers", "hypercorn", "gguf", "safetensors"}
SETTINGS = {"pydantic", "pydantic_settings"}


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has imported after running ``code``."""
    script = f"{code}\nimport sys; print('modules:', *{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.rpartition("modules: ")[2].split())


def test_loading_all_plugins_is_thin():
    code = "from shimmy.plugins import load_plugins; assert load_plugins().infos"
    assert not modules_after(code) & (HEAVY | SETTINGS | {"typer"})


def test_version_is_thin():
    code = "from shimmy.cli import main; assert main(['--version']) == 0"
    assert not modules_after(code) & (HEAVY | SETTINGS | {"typer", "rich"})


@pytest.mark.parametrize("command", ["plugins", "list"])
def test_listings_are_thin(command: str):
    code = f"from shimmy.cli import main; assert main(['{command}']) == 0"
    assert not modules_after(code) & (HEAVY | {"rich"})


def test_a_server_needs_no_arrays():
    """They are the worker's, and 20 MiB of an idle server."""
    code = """
from shimmy.plugins import load_plugins
from shimmy.server import adapters, app, context, run, text
from shimmy.lora import read, pairing
for frontend in load_plugins().frontends: frontend.load()
"""
    assert not modules_after(code) & {"numpy", "gguf", "llvmlite"}
