"""Which content a folder had when it was last looked at, so that gigabytes are read once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shimmy.files import replace_file
from shimmy.huggingface.folder import ModelFolder

State = list[list[Any]]
"""Name, size and times of change of each file."""

_log = logging.getLogger(__name__)


def state_of(folder: ModelFolder, *circumstances: str) -> State:
    """What tells, without reading, whether a folder has changed, or what matters besides its files."""
    files = [(path.name, path.stat()) for path in folder.files()]
    return [
        list(circumstances),
        *([name, each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino] for name, each in files),
    ]


@dataclass(frozen=True, slots=True)
class FolderMemory:
    """The note about one folder, and the files made of it; ``cache`` is where both are."""

    cache: Path
    folder: Path

    def digest(self, state: State) -> str | None:
        """The content, if the folder is still as it was; else None."""
        note = _read(self._path)
        return note["digest"] if note.get("state") == state and isinstance(note.get("digest"), str) else None

    def remember(self, state: State, digest: str) -> None:
        """Note the content, and remove what was made of the one before, if no other folder has it."""
        before = _read(self._path).get("digest")
        note = {"folder": str(self.folder), "state": state, "digest": digest}
        try:
            replace_file(self._path, json.dumps(note).encode())
        except OSError as error:
            _log.debug("the content of %s is not remembered: %s", self.folder, error)
            return
        if isinstance(before, str) and before != digest and before not in set(self._digests()):
            for made in self.cache.glob(f"*-{before}-*.gguf"):
                # On some systems a file in use stays; the next time will do.
                with suppress(OSError):
                    made.unlink()

    @property
    def _path(self) -> Path:
        return self.cache / f"{hashlib.blake2b(bytes(self.folder), digest_size=8).hexdigest()}.json"

    def _digests(self) -> Iterator[object]:
        return (_read(path).get("digest") for path in self.cache.glob("*.json"))


def _read(path: Path) -> dict[str, Any]:
    """A note; empty if there is none, or it is damaged."""
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
