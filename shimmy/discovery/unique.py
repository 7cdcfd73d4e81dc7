"""Model files, each once, however many sources report it and whatever links lead to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from shimmy.discovery.records import FoundModel, Skipped
from shimmy.discovery.scan import unreadable


def unique_models(reports: Iterable[FoundModel]) -> tuple[list[FoundModel], list[Skipped]]:
    """The usable files, each once: one found again, or through a link, lends the first its names."""
    found: dict[object, FoundModel] = {}
    unusable: list[Skipped] = []
    for report in reports:
        if not _is_text(str(report.path)):
            unusable.append(
                Skipped(report.path, report.source, "its name, or that of its folder, is not UTF-8.")
            )
            continue
        try:
            status = report.path.stat()
        except OSError as error:
            unusable.append(unreadable(error, report.source, report.path))
            continue
        # Where a file system has no numbers for files, the path must do.
        key = (status.st_dev, status.st_ino) if status.st_ino else report.path.resolve()
        first = found.setdefault(key, report)
        names = {report.name, *report.aliases} - {first.name, *first.aliases}
        found[key] = replace(first, aliases=(*first.aliases, *sorted(names)))
    return list(found.values()), unusable


def _is_text(name: str) -> bool:
    """Whether JSON can hold the name: Python reads bytes that are not UTF-8 as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
