"""Packed weights on disk: written once, then mapped by every start, so that processes share them.

A file is a head, padded to whole pages, and matrix after matrix at multiples of 64 bytes. The head says
which model's content it is, how matrices are laid out, and what their first rows are; all of it is
known beforehand. So a file is right if it begins with just this head and has the right length: it got
its name once it was whole. Nothing in it depends on the processor.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Progress
from shimmy.files import remove_abandoned, written_whole
from shimmy.gguf.quant import AffineRun, Scales
from shimmy_plugins.backends.cpu.layouts import Layout, Packed, Run
from shimmy_plugins.backends.cpu.memory import ALIGNMENT, round_up

log = logging.getLogger("shimmy.cpu")

#: To be raised when packing puts other bytes anywhere; a test knows the bytes of each version.
LAYOUT_VERSION = 1
#: What people wait for when a model's packed weights are written.
KEEPING = "keeping packed weights"
#: What is left free on the disk, for all else that is written there.
SPARE_BYTES = 1 << 28
_MAGIC = b"shimmy packed weights\n"
#: The head's length is a multiple of it; no system has larger pages by default.
_PAGE = 1 << 16
_SUFFIX = ".packed"
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Place:
    """What a matrix takes."""

    layout: Layout
    shape: tuple[int, int]
    """(row groups, blocks) of ``layout.block``."""
    first_row: Run

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.layout.block.itemsize


class PackedCache:
    """The packed weights of one model. Best effort: without them, weights are packed at each start.

    Args:
        folder: where all models' are.
        content: a digest of the model's files.
        most_bytes: what all models may take together.
    """

    def __init__(self, folder: Path, content: str, most_bytes: int) -> None:
        self._folder = folder
        self._content = content
        self._most_bytes = most_bytes
        self._head = b""
        self._starts: dict[str, int] = {}
        """Where matrices begin, counted from the end of the head."""
        self._size = 0

    def find(self, places: Mapping[str, Place]) -> dict[str, Packed] | None:
        """The matrices, read-only; None if they are not there. ``keep`` will be for the same places."""
        self._lay_out(places)
        path = self._path
        try:
            with path.open("rb") as file:
                if file.read(len(self._head)) != self._head or os.fstat(file.fileno()).st_size != self._size:
                    log.warning("%s is damaged and will be written anew", path)
                    return None
                mapped = np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_READ), np.uint8)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be mapped, so weights are packed: %s", path, error)
            return None
        with suppress(OSError):
            os.utime(path)  # it is in use: room is made by removing others
        return {name: _matrix(mapped, len(self._head) + self._starts[name], places[name]) for name in places}

    def keep(self, matrices: Mapping[str, Packed], progress: Progress) -> None:
        """Write packed matrices, those of all the places, for later starts; a warning if that fails."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self._folder)
            if problem := self._make_room():
                log.warning("packed weights are not kept: %s", problem)
                return
            with written_whole(self._path) as part, part.open("wb") as file:
                file.write(self._head)
                for done, (name, matrix) in enumerate(matrices.items()):
                    progress(KEEPING, done, len(matrices))
                    file.seek(len(self._head) + self._starts[name])
                    file.write(matrix.reshape(-1).view(np.uint8).data)
                file.truncate(self._size)
            progress(KEEPING, len(matrices), len(matrices))
        except OSError as error:
            log.warning("packed weights are not kept: %s", error)

    def _lay_out(self, places: Mapping[str, Place]) -> None:
        self._starts, end = {}, 0
        for name, place in places.items():
            self._starts[name] = end
            end = round_up(end + place.bytes, ALIGNMENT)
        facts = {"version": LAYOUT_VERSION, "content": self._content}
        matrices = {
            name: [place.layout.name, *place.shape, self._starts[name], _digest_of(place.first_row)]
            for name, place in places.items()
        }
        text = _MAGIC + json.dumps({**facts, "matrices": matrices}).encode() + b"\n"
        self._head = text.ljust(round_up(len(text), _PAGE))
        self._size = len(self._head) + end

    @property
    def _path(self) -> Path:
        digest = hashlib.blake2b(self._head, digest_size=_DIGEST_BYTES).hexdigest()
        return self._folder / f"{digest}{_SUFFIX}"

    def _make_room(self) -> str | None:
        """Remove files, longest unused first, until there is room; why there cannot be."""
        if self._size > self._most_bytes:
            return f"they take {self._size >> 20} MiB, packed_cache_size allows {self._most_bytes >> 20} MiB."
        others = sorted(self._others(), key=lambda each: each[1].st_mtime_ns)
        taken = sum(state.st_size for _, state in others)
        for path, state in others:
            if taken + self._size <= self._most_bytes:
                break
            # On Windows a file in use stays, and the bound is exceeded for now.
            with suppress(OSError):
                path.unlink()
            taken -= state.st_size
        free = shutil.disk_usage(self._folder).free
        if free < self._size + SPARE_BYTES:
            return f"they take {self._size >> 20} MiB in {self._folder}, where {free >> 20} MiB are free."
        return None

    def _others(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path != self._path:
                with suppress(FileNotFoundError):
                    yield path, path.stat()


def _matrix(mapped: NDArray[np.uint8], start: int, place: Place) -> Packed:
    found: Packed = mapped[start : start + place.bytes].view(place.layout.block).reshape(place.shape)
    return found


def _digest_of(run: Run) -> str:
    """Identifies what a quant type made of some rows: a plugin may be exchanged for another version."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for array in _arrays(run):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _arrays(run: Run) -> Iterable[NDArray[Any]]:
    if not isinstance(run, AffineRun):
        yield run.values
        return
    yield run.codes
    for scales in (run.scales, run.offsets):
        if isinstance(scales, Scales):
            yield scales.units
            if scales.factors is not None:
                yield scales.factors
