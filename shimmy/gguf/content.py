"""What tells a model from every other: a digest of all bytes of its files.

A sample would not do: a training may change few of many tensors, and none of their sizes. Reading
gigabytes takes seconds, so the digest is remembered with size, times of change and inode of each file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap as mmap_module
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from shimmy.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimmy.gguf.reader import GGUFFile

Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Called as progress(phase, done, total)."""

#: What people wait for when a file is new.
IDENTIFYING = "identifying the weights, once"
#: Bytes digested at a time, by one thread; a multiple of all page sizes.
_PIECE = 1 << 24
_DIGEST_BYTES = 16

_log = logging.getLogger(__name__)


def content_of(file: GGUFFile, memory: Path, threads: int, progress: Progress) -> str | None:
    """The digest of all bytes of a model, without reading them if that was done before.

    Args:
        file: the open model.
        memory: the folder where digests are remembered.
        threads: how many read at a time.
        progress: is told how far the reading is.

    Returns:
        None if the digest was not known and cannot be remembered: it would have to be made each time.
    """
    note = memory / f"{_hash(bytes(file.path.absolute())).hex()}.json"
    states = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for s in file.states]
    known = _read(note)
    if known.get("states") == states and isinstance(known.get("content"), str):
        return str(known["content"])
    try:
        # Written before the work, so that nobody waits for what cannot be kept.
        replace_file(note, json.dumps({"file": str(file.path)}).encode())
        content = _digest(file, threads, progress)
        known = {"file": str(file.path), "states": states, "content": content}
        replace_file(note, json.dumps(known).encode())
    except OSError as error:
        _log.warning("the content of %s cannot be remembered: %s", file.path, error)
        return None
    return content


def _digest(file: GGUFFile, threads: int, progress: Progress) -> str:
    """A digest over the digests of pieces, so that several threads can read."""
    whole = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    pieces = [piece for part in file.parts for piece in _pieces(part)]
    with ThreadPoolExecutor(threads) as workers:
        for done, digest in enumerate(workers.map(lambda piece: _of_piece(*piece), pieces)):
            progress(IDENTIFYING, done, len(pieces))
            whole.update(digest)
    progress(IDENTIFYING, len(pieces), len(pieces))
    whole.update(repr([len(part) for part in file.parts]).encode())
    return whole.hexdigest()


def _pieces(part: mmap) -> Iterator[tuple[mmap, int, int]]:
    """(file, start, end) of each."""
    for start in range(0, len(part), _PIECE):
        yield part, start, min(start + _PIECE, len(part))


def _of_piece(part: mmap, start: int, end: int) -> bytes:
    with memoryview(part) as every, every[start:end] as piece:
        digest = _hash(piece)
    if hasattr(mmap_module, "MADV_DONTNEED"):
        # The process need not be as large as the file; the system keeps what it read as long as it likes.
        part.madvise(mmap_module.MADV_DONTNEED, start, end - start)
    return digest


def _hash(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _read(note: Path) -> dict[str, Any]:
    """A note; empty if there is none, or it is damaged."""
    try:
        content = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
