"""What changes in folders while others write to them, told once it has been left alone for a while.

Files are only asked for size and time of change, never opened: that works on network folders, too, and
disturbs nobody.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from shimmy.discovery.scan import SUFFIX, folders_below, is_model_file
from shimmy.discovery.trained import MARKS
from shimmy.huggingface.folder import TEXTS

State: TypeAlias = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and time of change in nanoseconds of each file of a place, by name."""
Look: TypeAlias = Mapping[Path, State]
"""The places of models and adapters, folders and GGUF files, as they are at one time."""

#: Trainers change further files all the time: logs, and what tells how far they are.
_DECIDING = MARKS | frozenset(TEXTS)
_WEIGHTS = ".safetensors"


def look_at(roots: Iterable[Path]) -> Look:
    """What lies at these places, files or folders, and below them. OSError if one of them cannot be read."""
    look: dict[Path, State] = {}
    for root in roots:
        if root.is_dir():
            os.scandir(root).close()  # Walking passes over a folder that cannot be read.
            for folder, names in folders_below(root):
                look.update(_places(folder, names))
        else:
            root.stat()
            look.update(_places(root.parent, [root.name]))
    return look


def newest(state: State) -> int:
    """The latest time of change of a place's files, in nanoseconds."""
    return max(changed for _, _, changed in state)


def _places(folder: Path, names: Iterable[str]) -> Iterator[tuple[Path, State]]:
    deciding = []
    for name in sorted(names):
        if name.endswith(SUFFIX) and is_model_file(name):
            yield folder / name, tuple(_states(folder, [name]))
        elif name in _DECIDING or name.endswith(_WEIGHTS):
            deciding.append(name)
    if state := tuple(_states(folder, deciding)):
        yield folder, state


def _states(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    for name in names:
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            continue  # It was replaced by another one, or removed, a moment ago.
        yield name, status.st_size, status.st_mtime_ns


class Settling:
    """Which places have changed, and which of them have then been left alone.

    Args:
        seconds: how long a place must look the same to be settled.
        first: what is known already.
    """

    def __init__(self, seconds: float, first: Look) -> None:
        self._seconds = seconds
        self._known = dict(first)
        self._changing: dict[Path, tuple[State, float]] = {}

    @property
    def unsettled(self) -> set[Path]:
        """Places that have changed of late, or are gone."""
        return set(self._changing)

    def update(self, look: Look, now: float) -> set[Path]:
        """The places that have settled since the last call, in another state than before, or are gone.

        ``now`` is any clock in seconds.
        """
        settled = set()
        for place in look.keys() | self._known.keys() | self._changing.keys():
            state = look.get(place, ())
            if state == self._known.get(place, ()):
                self._changing.pop(place, None)
                continue
            seen, since = self._changing.get(place, (None, now))
            if seen != state:
                self._changing[place] = state, now
            elif now - since >= self._seconds:
                settled.add(place)
                del self._changing[place]
                self._know(place, state)
        return settled

    def _know(self, place: Path, state: State) -> None:
        if state:
            self._known[place] = state
        else:
            self._known.pop(place, None)
