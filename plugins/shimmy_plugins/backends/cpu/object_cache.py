"""Object code on disk, so that only the first start after an upgrade compiles."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from shimmy.caches import cache_folder
from shimmy.files import replace_file

log = logging.getLogger("shimmy.cpu")

_PACKAGE = Path(__file__).parent
#: Most that all kernels may take together. A model has some hundred kilobytes of them; other versions
#: of shimmy or LLVM, and other processors with the same home, have their own.
MOST_BYTES = 64 << 20
#: Letters in the name of a folder of kernels.
_NAME = 32


class ObjectCache:
    """One file per kernel: its SHA-256, then the code. Best effort: it never fails."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder() / "kernels"

    def of(self, *circumstances: str) -> ObjectCache:
        """The cache for some circumstances of compiling: processor, versions, sources."""
        folder = self._folder / _digest("\0".join(circumstances).encode()).hex()[:_NAME]
        with suppress(OSError):
            os.utime(folder)  # it is in use: ``prune`` begins with others
        return ObjectCache(folder)

    def get(self, name: str) -> bytes | None:
        """The code of a kernel; None if there is none or the file is damaged."""
        with suppress(OSError):
            stored = self._path(name).read_bytes()
            digest, code = stored[:32], stored[32:]
            if _digest(code) == digest:
                return code
            log.warning("%s is damaged and will be written anew", self._path(name))
        return None

    def put(self, name: str, code: bytes) -> None:
        """Store it in one move, so that no reader sees half a file."""
        with suppress(OSError):
            replace_file(self._path(name), _digest(code) + code)

    def prune(self, most_bytes: int = MOST_BYTES) -> None:
        """Delete kernels of other circumstances, longest unused first, until all take ``most_bytes``.

        A process that was about to read them compiles them again.
        """
        with suppress(OSError):
            every = [f for f in self._folder.parent.iterdir() if len(f.name) == _NAME and f.is_dir()]
            total = 0
            for folder in sorted(every, key=lambda f: (f == self._folder, f.stat().st_mtime), reverse=True):
                total += sum(file.stat().st_size for file in folder.iterdir())
                if total > most_bytes and folder != self._folder:
                    shutil.rmtree(folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.o"


def sources_digest() -> str:
    """Identifies the code that emits kernels: cheaper than emitting them to see whether they changed."""
    sources = sorted([*_PACKAGE.rglob("*.py"), *_PACKAGE.rglob("*.ll")])
    return _digest(b"\0".join(source.read_bytes() for source in sources)).hex()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
