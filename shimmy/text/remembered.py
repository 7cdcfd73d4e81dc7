"""Vocabularies remembered between runs, since reading a large one from its file takes three times as long.

In a GGUF file each string has its length before it, so Python walks over hundreds of thousands of
them; an entry of the memory is MessagePack, decoded in one go. Its name is a hash of the head it was
read from, so it is never out of date. One that is missing, damaged or cannot be written is done without.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from shimmy import __version__
from shimmy.files import replace_file
from shimmy.gguf.cursor import Skimmed
from shimmy.gguf.reader import GGUFFile, open_gguf

#: Elements of all long arrays from which on remembering them pays.
LEAST_ELEMENTS = 2**16
#: Entries kept, of some megabytes each; those written first go first.
MOST_ENTRIES = 8
_DIGEST_BYTES = 32

_logger = logging.getLogger(__name__)


def read_metadata(path: Path, memory: Path) -> Mapping[str, Any]:
    """All metadata of a model file; its long arrays come from the folder ``memory`` if they are there.

    Raises:
        GGUFError: the file cannot be read, or breaks the format.
    """
    with open_gguf(path, skim=True) as file:
        counts = {key: each.count for key, each in file.metadata.items() if isinstance(each, Skimmed)}
        entry = memory / f"{_digest_of_head(file)}.msgpack"
        metadata = file.metadata
    worthwhile = sum(counts.values()) >= LEAST_ELEMENTS
    arrays = recall(entry) if worthwhile else None
    if arrays is not None and {key: len(array) for key, array in arrays.items()} == counts:
        return {**metadata, **arrays}
    with open_gguf(path) as file:
        metadata = file.metadata
    if worthwhile:
        remember(entry, {key: metadata[key] for key in counts})
    return metadata


def _digest_of_head(file: GGUFFile) -> str:
    """A name for all bytes before the first tensor, and for the version that read them."""
    size = min((each.offset for each in file.tensors.values() if not each.part), default=file.size_bytes)
    with file.path.open("rb") as stream:
        return hashlib.blake2b(
            __version__.encode() + stream.read(size), digest_size=_DIGEST_BYTES
        ).hexdigest()


def recall(entry: Path) -> dict[str, Any] | None:
    """What an entry was written with; None if it is missing or damaged."""
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if digest != _digest(body):
        _logger.debug("remembered vocabulary %s is damaged; read anew.", entry)
        return None
    arrays: dict[str, Any] = msgspec.msgpack.decode(body)
    return arrays


def remember(entry: Path, arrays: Mapping[str, Any]) -> None:
    """Write an entry, ``.msgpack``, if that can be done; of others in its folder the oldest may go."""
    try:
        body = msgspec.msgpack.encode(arrays)
        replace_file(entry, _digest(body) + body)
        _forget_oldest(entry.parent)
    except (OSError, UnicodeEncodeError) as error:  # a token may be no UTF-8
        _logger.debug("the vocabulary is not remembered: %s", error)


def _forget_oldest(memory: Path) -> None:
    entries = sorted(memory.glob("*.msgpack"), key=lambda path: path.stat().st_mtime_ns)
    for entry in entries[:-MOST_ENTRIES]:
        with suppress(FileNotFoundError):
            entry.unlink()


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
