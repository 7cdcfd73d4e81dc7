"""Models that LM Studio downloaded: ``PUBLISHER/REPOSITORY/file.gguf`` below its models folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.discovery.places import Places
    from shimmy.discovery.records import DiscoverySource, Report
    from shimmy.settings import Settings

NAME = "lmstudio"
#: Holds the path of LM Studio's folder, wherever its user has put it.
POINTER = ".lmstudio-home-pointer"
#: What the application's own folder is called, below the system's place for such.
APPLICATION_FOLDERS = ("LM Studio", "LMStudio")
#: No honest pointer or settings file is larger.
MOST_BYTES = 2**20


class LMStudio:
    """The models folders of all versions of LM Studio, and the one its user has chosen."""

    def __init__(self, places: Places | None = None) -> None:
        from shimmy.discovery.places import Places

        self._places = places or Places()

    def scan(self, settings: Settings) -> Iterator[Report]:  # noqa: ARG002
        from shimmy.discovery.scan import search

        for folder in self.folders():
            yield from search(folder, NAME, namespaces=True)

    def folders(self) -> list[Path]:
        """Where models may lie, the likeliest first; they need not exist."""
        home = self._places.home
        pointer = _text(home / POINTER).strip().partition("\n")[0].strip()
        pointed = [self._places.path(pointer)] if pointer else []
        data = [folder / name for folder in self._places.application_data for name in APPLICATION_FOLDERS]
        own = [*pointed, home / ".lmstudio", home / ".cache" / "lm-studio"]
        chosen = [self._chosen(folder) for folder in (*own, *data)]
        usual = [folder / "models" for folder in (*own, home / "lm-studio", *data)]
        return list(dict.fromkeys([*(folder for folder in chosen if folder), *usual]))

    def _chosen(self, folder: Path) -> Path | None:
        """The models folder that the settings in LM Studio's ``folder`` name; None if they name none."""
        try:
            chosen = json.loads(_text(folder / "settings.json") or "{}").get("downloadsFolder")
        except (ValueError, AttributeError, RecursionError):
            return None
        return self._places.path(chosen) if isinstance(chosen, str) and chosen.strip() else None


def _text(path: Path) -> str:
    """The beginning of a small text file; empty if there is none, or it may not be read."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def load() -> DiscoverySource:
    return LMStudio()


@hookimpl
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    register(DiscoverySourceSpec(NAME, load))
