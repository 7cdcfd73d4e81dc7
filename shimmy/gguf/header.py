"""The head of a GGUF file: version, metadata, tensor table. Pure parsing, no NumPy, no file.

Layout, little endian::

    "GGUF"  version u32  tensor count u64  pair count u64
    pairs   x (key string, value type u32, value)
    tensors x (name string, dimensions u32, size u64 of each, type u32, offset u64)
    padding to the alignment, then the tensors' data

Each length, count and offset is held against the bytes that are really there, and against a
generous maximum, *before* anything is read or allocated for it: what a hostile file costs is bounded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any, TypeVar

from shimmy.errors import GGUFError
from shimmy.gguf.cursor import LEAST_STRING, Cursor

T = TypeVar("T")

DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
#: Of metadata pairs and of tensors, each; models with thousands of experts stay below half of it.
MAX_ENTRIES = 2**16
_ALIGNMENT = "general.alignment"

# The fewest bytes a metadata pair (key, type, value) and a row of the tensor table
# (name, dimensions, one size, type, offset) take.
_LEAST_PAIR = LEAST_STRING + 4 + 1
_LEAST_TENSOR = LEAST_STRING + 4 + 8 + 4 + 8
# What follows the number of dimensions in a row: the sizes, type and offset.
_ROWS = {dimensions: struct.Struct(f"<{dimensions}QIQ") for dimensions in range(1, MAX_DIMENSIONS + 1)}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and what it is; nothing of its data has been read."""

    name: str
    shape: tuple[int, ...]
    """NumPy order: the last number is the row length, adjacent in the file."""
    ggml_id: int
    """The type's id in ggml; a ``QuantTypeSpec`` knows its geometry."""
    offset: int
    """Byte in the file where the data begins."""
    room: int
    """Bytes up to the next tensor or the file's end: the data must fit in here."""
    part: int = 0
    """Which file of a model that is split over several, counted from 0."""

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """All dimensions but the last, taken together; 1 for a vector."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True, slots=True)
class Header:
    """All a GGUF file says before its data."""

    version: int
    metadata: Mapping[str, Any]
    """Keys to what :meth:`shimmy.gguf.cursor.Cursor.value` reads."""
    tensors: Mapping[str, TensorInfo]
    """By name, in the order of the file's table."""


@dataclass(frozen=True, slots=True)
class _TensorRow:
    """A row of the tensor table as it stands; ``at`` is the byte where its offset is written."""

    shape: tuple[int, ...]
    ggml_id: int
    offset: int
    at: int


def read_header(buffer: bytes | mmap, file: str, *, skim: bool = False) -> Header:
    """Parse the head of a GGUF file.

    Args:
        buffer: the whole file.
        file: its name, for errors.
        skim: step over long arrays, vocabularies above all; what is wrong inside them goes unseen.

    Raises:
        GGUFError: anything is not as the format demands; names field and byte.
    """

    def read(cursor: Cursor) -> Header:
        version, tensor_count, metadata = _read_start(cursor)
        table = _read_table(cursor, tensor_count)
        alignment = metadata.get(_ALIGNMENT, DEFAULT_ALIGNMENT)
        return Header(version, metadata, _place_tensors(cursor, table, alignment))

    return _skimmed(buffer, file, read) if skim else read(Cursor(buffer, file))


def read_metadata(buffer: bytes | mmap, file: str) -> dict[str, Any]:
    """The metadata alone, long arrays stepped over; of the tensor table only the first row is checked.

    Raises:
        GGUFError: as :func:`read_header`, as far as it looks.
    """

    def read(cursor: Cursor) -> dict[str, Any]:
        _, tensor_count, metadata = _read_start(cursor)
        _read_table(cursor, min(tensor_count, 1))
        return metadata

    return _skimmed(buffer, file, read)


def _skimmed(buffer: bytes | mmap, file: str, read: Callable[[Cursor], T]) -> T:
    """What ``read`` makes of the file, by leaps if all then makes sense, else step by step."""
    cursor = Cursor(buffer, file, skim=True, leap=True)
    try:
        return read(cursor)
    except GGUFError:
        if not cursor.leapt:
            raise
    return read(Cursor(buffer, file, skim=True))


def _read_start(cursor: Cursor) -> tuple[int, int, dict[str, Any]]:
    """All before the tensor table: version, number of tensors, metadata."""
    version = _read_version(cursor)
    tensor_count = _read_count(cursor, "tensor count")
    pair_count = _read_count(cursor, "metadata count")
    cursor.claim("tensor table", tensor_count, _LEAST_TENSOR)
    cursor.claim("metadata", pair_count, _LEAST_PAIR)
    # Only a table of tensors behind the metadata shows that a leap went wrong.
    cursor.leap = cursor.leap and tensor_count > 0
    return version, tensor_count, _read_metadata(cursor, pair_count)


def _read_version(cursor: Cursor) -> int:
    magic = bytes(cursor.buffer[:4])
    if magic != b"GGUF":
        hint = "Is it a GGUF file? Other formats must be converted first."
        raise cursor.error("magic", f"found {magic!r}, expected b'GGUF'", 0, hint)
    cursor.position = 4
    version = cursor.u32("version")
    if version in (2, 3):
        return version
    if version and version % 2**16 == 0:
        hint = "Convert it to little endian; shimmy reads no other."
        raise cursor.error("version", "the file is big-endian", 4, hint)
    raise cursor.error("version", f"found {version}, expected 2 or 3", 4, "Convert the model anew.")


def _read_count(cursor: Cursor, field: str) -> int:
    at = cursor.position
    count = cursor.u64(field)
    if count > MAX_ENTRIES:
        raise cursor.error(field, f"found {count}, expected at most {MAX_ENTRIES}", at)
    return count


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        at = cursor.position
        key = cursor.name(f"metadata key {index}")
        if key in metadata:
            raise cursor.error(f"metadata key {index}", f"{key!r} occurs twice", at)
        at = cursor.position
        metadata[key] = cursor.value(f"metadata {key!r}")
        if key == _ALIGNMENT:
            _check_alignment(cursor, metadata[key], at)
    return metadata


def _check_alignment(cursor: Cursor, alignment: Any, at: int) -> None:
    if type(alignment) is not int or alignment < 8 or alignment.bit_count() != 1:
        problem = f"found {alignment!r:.40}, expected a power of two of at least 8"
        raise cursor.error(f"metadata {_ALIGNMENT!r}", problem, at)


def _read_table(cursor: Cursor, count: int) -> dict[str, _TensorRow]:
    table: dict[str, _TensorRow] = {}
    for index in range(count):
        at = cursor.position
        name = cursor.name(f"name of tensor {index}")
        if name in table:
            raise cursor.error(f"name of tensor {index}", f"{name!r} occurs twice", at)
        table[name] = _read_tensor_row(cursor, name)
    return table


def _read_tensor_row(cursor: Cursor, name: str) -> _TensorRow:
    field = f"dimensions of tensor {name!r}"
    at = cursor.position
    dimensions = cursor.u32(field)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.error(field, f"found {dimensions} of them, expected 1 to {MAX_DIMENSIONS}", at)
    at = cursor.position
    *sizes, ggml_id, offset = cursor.numbers(field, _ROWS[dimensions])
    shape = tuple(reversed(sizes))
    if not 0 < math.prod(shape) < 2**63:
        raise cursor.error(field, f"shape {shape} is empty or too large", at)
    return _TensorRow(shape, ggml_id, offset, cursor.position - 8)


def _place_tensors(cursor: Cursor, table: Mapping[str, _TensorRow], alignment: int) -> dict[str, TensorInfo]:
    """Find each tensor's place in the file and its room: up to where the next one begins."""
    size = len(cursor.buffer)
    data_start = -(-cursor.position // alignment) * alignment
    starts = sorted(data_start + row.offset for row in table.values())
    ends = dict(zip(starts, [*starts[1:], size], strict=False))
    taken: dict[int, str] = {}
    tensors: dict[str, TensorInfo] = {}
    for name, row in table.items():
        start = data_start + row.offset
        if row.offset % alignment:
            problem = f"{row.offset} is not a multiple of the alignment {alignment}"
            raise cursor.error(f"offset of tensor {name!r}", problem, row.at)
        if start in taken:
            problem = f"overlaps tensor {taken[start]!r} at byte {start}"
            raise cursor.error(f"offset of tensor {name!r}", problem, row.at)
        if start >= size:
            problem = f"data would begin at byte {start} of a file of {size}"
            raise cursor.error(f"offset of tensor {name!r}", problem, row.at)
        taken[start] = name
        tensors[name] = TensorInfo(name, row.shape, row.ggml_id, start, ends[start] - start)
    return tensors
