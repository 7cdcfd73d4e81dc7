"""What was measured, and on what: model, processor, memory, system, versions."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from shimmy.cli.output import readable_size


def subject(model: Path) -> list[tuple[str, str]]:
    """What a report is about, for people: the model's file and the machine."""
    machine = describe_machine()
    return [
        ("model", f"{model.stem}, {readable_size(model.stat().st_size)}"),
        ("machine", f"{machine['processor']}, {machine['physical_cores']} cores, {machine['system']}"),
    ]


def subject_json(model: Path, command: Sequence[str]) -> dict[str, Any]:
    """The same for programs, with versions and the command line."""
    return {
        "command": shlex.join(command),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "model": {"path": str(model), "file_bytes": model.stat().st_size},
    }


def describe_machine() -> dict[str, Any]:
    """Facts about this machine, for a report."""
    return {
        "processor": processor_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
    }


def describe_versions() -> dict[str, str]:
    """Versions of what computes."""
    packages = {name: version(name) for name in ("shimmy-llm", "numpy", "llvmlite")}
    return packages | {"python": platform.python_version()}


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name, where the system tells."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
