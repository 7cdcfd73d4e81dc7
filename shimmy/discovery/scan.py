"""What discovery sources share: walking a folder for GGUF files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shimmy.discovery.catalog import FoundModel, Skipped

SUFFIX = ".gguf"


def find_models(root: Path, source: str, *, depth: int | None = None) -> Iterator[FoundModel | Skipped]:
    """The GGUF files below ``root``, at most ``depth`` folders down (None: all), in stable order.

    Folders that cannot be read are reported and passed over; links are followed, each folder once;
    folders whose name starts with a dot are not entered.
    """
    unreadable: list[Skipped] = []

    def report(error: OSError) -> None:
        unreadable.append(Skipped(Path(error.filename), source, f"cannot be read: {error.strerror}"))

    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, onerror=report, followlinks=True):
        seen.add(os.path.realpath(folder))
        level = len(Path(folder).relative_to(root).parts)
        subfolders[:] = [] if level == depth else sorted(_to_enter(folder, subfolders, seen))
        for name in sorted(files):
            if name.lower().endswith(SUFFIX):
                path = Path(folder, name)
                yield FoundModel(path.stem, path, source)
    yield from unreadable


def _to_enter(folder: str, subfolders: list[str], seen: set[str]) -> Iterator[str]:
    for name in subfolders:
        if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in seen:
            yield name
