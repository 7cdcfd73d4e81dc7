"""wgpu: the graph compiled to WGSL kernels, run on a GPU through Vulkan, Metal or Direct3D 12."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import BackendSpec, ShaderSourceSpec

if TYPE_CHECKING:
    import typer

    from shimmy.engine.plan import Backend
    from shimmy.hooks import Plugins

#: What Linux shows of GPUs that can compute, below /dev: of most, of NVIDIA's (two), in WSL, of phones.
_NODES = ("dri/renderD*", "nvidia[0-9]*", "nvmap", "dxg", "mali*", "kgsl-3d*")


def probe() -> str | None:
    """Why no GPU is taken by itself; None if one is."""
    if sys.platform == "linux" and not has_node(Path("/dev")):
        # Looking closer takes 0.4 s and 70 MB, at each start of those who have none.
        return "no GPU: this machine shows none in /dev"
    try:
        from shimmy_plugins.backends.wgpu.adapters import list_adapters, unusable
    except (ImportError, OSError, RuntimeError) as error:
        return f"wgpu cannot be loaded: {error}"
    return unusable(adapter.facts for adapter in list_adapters())


def has_node(devices: Path) -> bool:
    """Whether a folder such as /dev holds what a driver of a GPU puts there."""
    return any(True for pattern in _NODES for _ in devices.glob(pattern))


def check_gpu(gpu: str) -> None:
    from shimmy_plugins.backends.wgpu.adapters import choose_adapter

    choose_adapter(gpu)


def load(plugins: Plugins) -> Backend:
    from shimmy_plugins.backends.wgpu.backend import WgpuBackend

    return WgpuBackend(plugins)


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    spec = BackendSpec("wgpu", 20, probe, load, check_gpu=check_gpu, aliases=("airframe",))
    register(spec)


@hookimpl
def register_shader_sources(register: Callable[[ShaderSourceSpec], None]) -> None:
    """The shaders of this engine."""
    from importlib.resources import files

    register(ShaderSourceSpec("shimmy", files("shimmy_shaders")))


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add ``shimmy gpu-info`` and ``shimmy shaders``."""
    from shimmy_plugins.backends.wgpu.info import gpu_info
    from shimmy_plugins.backends.wgpu.shaders import shaders

    app.command("gpu-info")(gpu_info)
    app.add_typer(shaders, name="shaders")
