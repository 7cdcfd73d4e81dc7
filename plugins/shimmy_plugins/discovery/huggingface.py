"""Models and adapters in the Hugging Face cache.

``models--ORG--NAME/snapshots/REVISION/…/file.gguf`` is, where the system has links, a link into
``blobs``; downloads under way lie there only. ``refs/main`` names the revision people mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.discovery.places import Places
    from shimmy.discovery.records import DiscoverySource, FoundAdapter, FoundModel, Report, Skipped
    from shimmy.settings import Settings

NAME = "huggingface"
PREFIX = "models--"
_NO_DATA = "the data it links to is missing: download it again."


class HuggingFaceCache:
    """The cache folder that the environment names, or the default one."""

    def __init__(self, places: Places | None = None) -> None:
        from shimmy.discovery.places import Places

        self._places = places or Places()

    def scan(self, settings: Settings) -> Iterator[Report]:  # noqa: ARG002
        """Each model and adapter once, however many revisions of it are there."""
        from shimmy.discovery.scan import list_folder

        report, entries = list_folder(self.folder(), NAME)
        yield report
        for entry in entries:
            if entry.name.startswith(PREFIX):
                yield from _repository(entry)

    def folder(self) -> Path:
        """The cache, by the variables Hugging Face's own libraries go by."""
        places = self._places
        if named := places.variable("HF_HUB_CACHE") or places.variable("HUGGINGFACE_HUB_CACHE"):
            return named
        return (places.variable("HF_HOME") or places.dot_cache / "huggingface") / "hub"


def _repository(folder: Path) -> Iterator[Report]:
    """What is in one repository, each from the best revision that has all of it."""
    from itertools import chain

    from shimmy.discovery.records import Skipped
    from shimmy.discovery.scan import unreadable

    namespace = folder.name.removeprefix(PREFIX).replace("--", "/")
    reports: dict[Path, FoundAdapter | FoundModel | Skipped] = {}
    try:
        for snapshot in _snapshots(folder):
            models, adapters = _snapshot_models(snapshot, namespace), _snapshot_adapters(snapshot, namespace)
            for place, report in chain(models, adapters):
                better = not isinstance(report, Skipped) and isinstance(reports.get(place), Skipped)
                if better or place not in reports:
                    reports[place] = report
    except OSError as error:
        yield unreadable(error, NAME, folder)
    yield from reports.values()


def _snapshots(repository: Path) -> list[Path]:
    """The revisions there are: that of refs/main first, then the newest."""
    try:
        main = (repository / "refs" / "main").read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        main = ""
    if not (folder := repository / "snapshots").is_dir():
        return []
    revisions = [path for path in folder.iterdir() if path.is_dir()]
    return sorted(revisions, key=lambda path: (path.name != main, -path.stat().st_mtime_ns, path.name))


def _snapshot_models(snapshot: Path, namespace: str) -> Iterator[tuple[Path, FoundModel | Skipped]]:
    """What a revision holds, with its place in it, which is the same in all revisions."""
    from shimmy.discovery.records import FoundModel, Skipped
    from shimmy.discovery.scan import models_of, walk
    from shimmy.gguf.parts import model_stem

    for files in walk(snapshot, NAME):
        if isinstance(files, Skipped):
            yield Path(), files
            continue
        if isinstance(files, Path):
            publisher, name = _names(files, snapshot, namespace)
            yield files.relative_to(snapshot), FoundModel(name, files, NAME, namespace=publisher)
            continue
        folder = files[0].parent.relative_to(snapshot)
        complete = [path for path in files if path.exists()]
        broken = [path for path in files if path not in complete]
        for report in models_of(complete, NAME, "/".join((namespace, *folder.parts))):
            assert report.path is not None
            yield folder / model_stem(report.path), report
        for path in broken:
            yield folder / model_stem(path), Skipped(path, NAME, _NO_DATA)


def _snapshot_adapters(snapshot: Path, namespace: str) -> Iterator[tuple[Path, FoundAdapter | Skipped]]:
    """The folders of a revision that are adapters, with their place in it."""
    from shimmy.discovery.records import FoundAdapter, Skipped
    from shimmy.discovery.scan import folders_below
    from shimmy.discovery.trained import is_adapter

    for folder, names in folders_below(snapshot):
        if not is_adapter(names):
            continue
        place = folder.relative_to(snapshot)
        if all((folder / name).exists() for name in names):
            publisher, name = _names(folder, snapshot, namespace)
            yield place, FoundAdapter(name, folder, NAME, namespace=publisher)
        else:
            yield place, Skipped(folder, NAME, _NO_DATA)


def _names(folder: Path, snapshot: Path, namespace: str) -> tuple[str, str]:
    """A folder of a repository as people write it: what comes before its name, and its name."""
    publisher, _, name = "/".join((namespace, *folder.relative_to(snapshot).parts)).rpartition("/")
    return publisher, name


def load() -> DiscoverySource:
    return HuggingFaceCache()


@hookimpl
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    register(DiscoverySourceSpec(NAME, load))
