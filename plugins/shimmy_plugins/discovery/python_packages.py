"""GGUF files that installed Python packages carry; no package is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.discovery.records import DiscoverySource, Report
    from shimmy.settings import Settings

NAME = "python-packages"
#: What installers call the folder of installed packages.
PACKAGE_FOLDERS = ("site-packages", "dist-packages")


class PythonPackages:
    """Files directly inside a package's own folder: deeper searches would cost every start."""

    def scan(self, settings: Settings) -> Iterator[Report]:  # noqa: ARG002
        from shimmy.discovery.scan import search

        for entry in dict.fromkeys(sys.path):
            folder = Path(entry)
            if folder.name in PACKAGE_FOLDERS:
                yield from search(folder, NAME, depth=1)


def load() -> DiscoverySource:
    return PythonPackages()


@hookimpl
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    register(DiscoverySourceSpec(NAME, load))
