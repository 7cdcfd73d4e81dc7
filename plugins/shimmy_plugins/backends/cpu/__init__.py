"""cpu: the graph compiled to a table of native kernels, emitted through LLVM, run by a few threads."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import BackendSpec

if TYPE_CHECKING:
    from shimmy.engine.plan import Backend
    from shimmy.hooks import Plugins

#: Machines whose vectors LLVM handles well here; others lack a fused multiply-add or are untested.
MACHINES = ("x86_64", "amd64", "aarch64", "arm64")


def _probe() -> str | None:
    """None where kernels can be built; whether an x86 processor has AVX2 is seen when compiling."""
    if find_spec("llvmlite") is None:
        return "llvmlite is not installed"
    machine = platform.machine().lower()
    if machine not in MACHINES or sys.maxsize < 2**32:
        return f"no kernels for {machine or 'this machine'}, only for 64-bit x86 and ARM"
    return None


def _load(_plugins: Plugins) -> Backend:
    from shimmy_plugins.backends.cpu.backend import CpuBackend

    return CpuBackend()


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    register(BackendSpec(name="cpu", priority=10, probe=_probe, load=_load))
