"""Which servers are measured: our own, and a peer's if one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shimmy.engine.machine import usable_cores
from shimmy.settings import Settings
from shimmy_plugins.commands.bench.peers import Setup, choose_peer, known_servers, peer_kv_type
from shimmy_plugins.commands.bench.servers import Launch, own_launch


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """The peer, and what it must be able to run."""

    name: str | None
    kv_type: str | None
    """None: the same as our own."""
    context: int
    """Positions of each sequence."""
    sequences: int


def launches(
    model: Path, settings: Settings, peer: PeerOptions, environment: Mapping[str, str] | None = None
) -> list[Launch]:
    """Our own server, with variables besides those of this process; then the peer's, if one is named.

    Raises:
        ConfigError: the peer is unknown or cannot run here.
    """
    kv_type = peer_kv_type(peer.kv_type, settings.kv_type, peer.name)
    found = [own_launch(model, settings, environment)]
    if peer.name:
        threads = settings.threads or usable_cores()
        setup = Setup(model, threads, peer.context, peer.sequences, kv_type)
        found.append(choose_peer(peer.name, known_servers()).launch(setup))
    return found
