"""Other engines to compare with: each in a process of its own, all driven through one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from shimmy.errors import ConfigError, did_you_mean
from shimmy_plugins.commands.bench.noise import Meter
from shimmy_plugins.commands.bench.servers import Launch
from shimmy_plugins.commands.bench.workload import Runner

P = TypeVar("P", bound="Peer")

KV_TYPES = ("f32", "f16", "q8_0")
#: llama.cpp on a GPU, through Vulkan.
GPU_FAMILY = "llama.cpp-vulkan"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a peer must be able to run."""

    model: Path
    threads: int
    context: int
    """Positions of each sequence."""
    sequences: int
    kv_type: str
    """One of :data:`KV_TYPES`."""


class Peer(Protocol):
    """A way to run another engine on this machine."""

    name: str
    family: str
    """The engine, ``llama.cpp``, which there may be several ways to run."""

    def find(self) -> str | None:
        """Why it cannot run here; None if it can."""
        ...

    def start(self, setup: Setup, meter: Meter) -> Runner:
        """Start it with the model loaded; ``meter`` times what it does."""
        ...


class ServerPeer(Peer, Protocol):
    """A peer that speaks the OpenAI API."""

    def launch(self, setup: Setup) -> Launch:
        """How to start it for a model."""
        ...


def known_peers() -> Sequence[Peer]:
    """All peers; of one family, the one to prefer first."""
    from shimmy_plugins.commands.bench.peers.bindings import BindingsPeer, LibraryPeer
    from shimmy_plugins.commands.bench.peers.llama_bench import LlamaBench
    from shimmy_plugins.commands.bench.peers.programs import GPU_PACKAGE, in_package

    return (
        LibraryPeer(GPU_PACKAGE, GPU_FAMILY, partial(in_package, package=GPU_PACKAGE)),
        *(peer for peer in known_servers() if peer.family != GPU_FAMILY),
        BindingsPeer("llama-cpp-python", "llama.cpp", module="llama_cpp.llama_cpp"),
        LlamaBench(),
        BindingsPeer("ik-llama-cpp-python", "ik_llama.cpp", module="ik_llama_cpp._ctypes_api"),
    )


def known_servers() -> Sequence[ServerPeer]:
    """Those that are servers, likewise."""
    from shimmy_plugins.commands.bench.peers.llama_server import LlamaServer
    from shimmy_plugins.commands.bench.peers.programs import CPU_PACKAGE, GPU_PACKAGE, in_package
    from shimmy_plugins.commands.bench.peers.xllamacpp import XLlamaCpp

    on_gpu = partial(in_package, package=GPU_PACKAGE)
    return (
        LlamaServer(),
        LlamaServer(CPU_PACKAGE, in_package),
        XLlamaCpp(),
        LlamaServer(GPU_PACKAGE, on_gpu, family=GPU_FAMILY, gpu=True),
    )


def choose_peer(name: str, peers: Sequence[P]) -> P:
    """The first of ``peers`` of this name or family that can run here; a ConfigError if none can."""
    wanted = [peer for peer in peers if name in (peer.name, peer.family)]
    if not wanted:
        known = {peer.family for peer in peers} | {peer.name for peer in peers}
        raise ConfigError(f"--vs names {name!r}, which is no known engine.", hint=did_you_mean(name, known))
    problems = {peer.name: peer.find() for peer in wanted}
    for peer in wanted:
        if problems[peer.name] is None:
            return peer
    reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    raise ConfigError(
        f"--vs {name}: not found on this machine ({reasons}).",
        hint=f"Install one of them: {', '.join(problems)}.",
    )


def peer_kv_type(asked: str | None, own: str, peer: str | None) -> str:
    """The type of a peer's KV cache: the one asked for, else that of our own.

    Raises:
        ConfigError: there is no such type, or no peer.
    """
    if asked is None:
        return own
    if peer is None:
        raise ConfigError(
            f"--peer-kv-type is {asked!r}, and there is no --vs that it would be for.",
            hint="Add --vs; the type of our own cache is --kv-type.",
        )
    if asked not in KV_TYPES:
        raise ConfigError(f"--peer-kv-type is {asked!r}; expected one of: {', '.join(KV_TYPES)}.")
    return asked
