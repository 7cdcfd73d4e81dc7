"""What discovery sources report."""

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
    """Of a model split over several files, the first."""
    source: str
    aliases: tuple[str, ...] = ()
    """Further names people know it by."""
    namespace: str = ""
    """Where the source has it, as people write it (``publisher/repository``), to tell models of one
    name apart; empty: the file's folders do."""


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """A LoRA adapter a source reports: a folder or a GGUF file. The catalog looks for its base."""

    name: str
    path: Path
    source: str
    chosen: bool = False
    """Whether it is the one that the setting ``lora_gguf`` names."""
    namespace: str = ""
    """As of a model."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that gives no model, and why; ``path`` None: the source itself failed."""

    path: Path | None
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Searched:
    """A place where a source looked; it need not exist."""

    path: Path
    source: str
    exists: bool


Report = FoundModel | FoundAdapter | Skipped | Searched


class DiscoverySource(Protocol):
    """Scans one kind of place. Runs in a thread; reports, and survives, what it cannot read."""

    def scan(self, settings: Settings) -> Iterable[Report]: ...
