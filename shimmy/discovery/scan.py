"""What discovery sources share: searching folders for models, and putting split ones together."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from shimmy.discovery.checkpoints import proposed_name
from shimmy.discovery.records import FoundModel, Report, Searched, Skipped
from shimmy.gguf.parts import model_stem, part_name
from shimmy.huggingface.folder import CONFIG, is_model_folder

SUFFIX = ".gguf"
#: What downloaders put behind, or before, the suffix of a file that is not complete.
PARTIAL = frozenset({".part", ".partial", ".incomplete", ".crdownload", ".download", ".tmp"})
#: Missing parts of a split model that a message names.
NAMED_PARTS = 3
#: How trainers call a folder until all of a checkpoint is in it.
_UNFINISHED = "tmp-checkpoint-"


def search(
    place: Path, source: str, *, depth: int | None = None, namespaces: bool = False
) -> Iterator[Report]:
    """What is found at ``place``, a folder or a file that need not exist; else as :func:`find_models`."""
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        yield Searched(place, source, exists=False)
    except OSError as error:
        yield unreadable(error, source, place)
    else:
        yield Searched(place, source, exists=True)
        if stat.S_ISDIR(mode):
            yield from find_models(place, source, depth=depth, namespaces=namespaces)
        else:
            yield found_file(place, source)


def list_folder(folder: Path, source: str) -> tuple[Searched | Skipped, list[Path]]:
    """What to report of a folder that need not exist, and what is in it, in stable order."""
    try:
        return Searched(folder, source, exists=True), sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return Searched(folder, source, exists=False), []
    except OSError as error:
        return unreadable(error, source, folder), []


def find_models(
    root: Path, source: str, *, depth: int | None = None, namespaces: bool = False
) -> Iterator[FoundModel | Skipped]:
    """The models below ``root``, in stable order: GGUF files, and Hugging Face's folders.

    Args:
        root: the folder; its parts of split models count as one.
        source: who asks.
        depth: search at most so many folders down; None: all.
        namespaces: the folders below ``root`` are namespaces, ``publisher/repository``.
    """

    def namespace(folder: Path) -> str:
        place = folder.relative_to(root).as_posix() if namespaces else "."
        return "" if place == "." else place

    for found in walk(root, source, depth=depth):
        if isinstance(found, Skipped):
            yield found
        elif isinstance(found, Path):
            place = namespace(found.parent) if found != root else ""
            yield FoundModel(proposed_name(found), found, source, namespace=place)
        else:
            yield from models_of(found, source, namespace(found[0].parent))


def walk(root: Path, source: str, *, depth: int | None = None) -> Iterator[list[Path] | Path | Skipped]:
    """The GGUF files of each folder below ``root``, if there are any; and each folder that is a model itself.

    Folders that cannot be read are reported and passed over; links are followed, each folder once;
    folders whose name starts with a dot are not entered, downloads under way not listed.
    """
    failures: list[Skipped] = []

    def report(error: OSError) -> None:
        failures.append(unreadable(error, source))

    for folder, names in folders_below(root, report, depth=depth):
        if files := [folder / name for name in sorted(names) if is_model_file(name)]:
            yield files
        if CONFIG in names and is_model_folder(names):
            yield folder
    yield from failures


def folders_below(
    root: Path, report: Callable[[OSError], None] | None = None, *, depth: int | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """``root`` and the folders below it, each once and with the names of its files; links are followed.

    Those whose name starts with a dot, and checkpoints under way, are not entered. What cannot be read
    goes to ``report``.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=report, followlinks=True):
        seen.add(os.path.realpath(folder))
        level = len(Path(folder).relative_to(root).parts)
        subfolders[:] = [] if level == depth else sorted(_to_enter(folder, subfolders, seen))
        yield Path(folder), names


def is_model_file(name: str) -> bool:
    """Whether a file of this name may hold a complete model."""
    lowered = name.lower()
    return lowered.endswith(SUFFIX) and PARTIAL.isdisjoint(Path(lowered).suffixes)


def models_of(files: Iterable[Path], source: str, namespace: str = "") -> Iterator[FoundModel | Skipped]:
    """Files of one folder as models: each its own, or part of one that is split over several."""
    split: dict[tuple[str, int], dict[int, Path]] = {}
    for path in files:
        if part := part_name(path):
            split.setdefault((part.stem, part.count), {})[part.number] = path
        else:
            yield found_file(path, source, namespace)
    for (_, count), parts in split.items():
        if len(parts) == count:
            yield found_file(parts[1], source, namespace)
        else:
            yield _incomplete(parts, count, source)


def found_file(path: Path, source: str, namespace: str = "") -> FoundModel:
    """The model in this file, or of which this file is the first part."""
    return FoundModel(model_stem(path), path, source, namespace=namespace)


def unreadable(error: OSError, source: str, path: Path | None = None) -> Skipped:
    """The row for what the system does not let us read."""
    where = path or (Path(error.filename) if error.filename else None)
    return Skipped(where, source, f"cannot be read: {error.strerror or error}")


def _incomplete(parts: dict[int, Path], count: int, source: str) -> Skipped:
    path = next(iter(parts.values()))
    name = part_name(path)
    assert name is not None
    missing = [number for number in range(1, count + 1) if number not in parts]
    names = ", ".join(name.sibling(path, number).name for number in missing[:NAMED_PARTS])
    more = ", …" if len(missing) > NAMED_PARTS else ""
    return Skipped(path, source, f"{len(missing)} of its {count} parts missing: {names}{more}.")


def _to_enter(folder: str, subfolders: list[str], seen: set[str]) -> Iterator[str]:
    for name in subfolders:
        if not name.startswith((".", _UNFINISHED)) and os.path.realpath(Path(folder, name)) not in seen:
            yield name
