"""Records of found models. (The catalog itself follows.)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shimmy.settings import Settings


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file a source reports; ``name`` is the source's proposal, the catalog has the last word."""

    name: str
    path: Path
    source: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a file's metadata says of a model, without loading it."""

    name: str
    path: Path
    source: str
    size_bytes: int
    architecture: str
    parameters: int
    quantization: str
    """The type holding most of the weights' bytes, as ggml names it."""
    context_length: int | None
    has_chat_template: bool


class DiscoverySource(Protocol):
    """Scans one kind of place. Runs in a thread; must survive unreadable folders."""

    def scan(self, settings: Settings) -> Iterable[FoundModel]: ...
