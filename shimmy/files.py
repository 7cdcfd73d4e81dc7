"""Writing files that others may be reading."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PART = ".part"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it meanwhile sees the old one or the new one.

    Folders that are missing are made. Raises OSError; nothing half-written is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write a large file, which gets its name ``path`` when the block ends well, and goes otherwise.

    What a process that was killed has left, :func:`remove_abandoned` finds.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{_PART}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that are no more were writing here by :func:`written_whole`."""
    import psutil

    for part in folder.glob(f"*{_PART}"):
        process = part.suffixes[-2].removeprefix(".") if len(part.suffixes) > 1 else ""
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            with suppress(OSError):
                part.unlink()


def _rename(part: Path, path: Path) -> None:
    try:
        part.replace(path)
    except PermissionError:
        # Windows replaces no file in use. Then somebody else has written it meanwhile, and uses it.
        if not path.exists():
            raise
