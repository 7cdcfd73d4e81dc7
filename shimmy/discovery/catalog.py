"""Records of found models. (The catalog itself follows; cards are made by shimmy.gguf.card.read_card.)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shimmy.gguf.card import ModelCard  # card records live with the reader: the engine makes them too

__all__ = ["DiscoverySource", "FoundModel", "ModelCard"]

if TYPE_CHECKING:
    from shimmy.settings import Settings


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file a source reports; ``name`` is the source's proposal, the catalog has the last word."""

    name: str
    path: Path
    source: str


class DiscoverySource(Protocol):
    """Scans one kind of place. Runs in a thread; must survive unreadable folders."""

    def scan(self, settings: Settings) -> Iterable[FoundModel]: ...
