"""Read tensors of safetensors files without trusting them: the header is checked before any use.

https://huggingface.co/docs/safetensors: 8 bytes with the header's length, a JSON object that gives each
tensor's type, shape and place, then the data.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from shimmy.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LENGTH_BYTES = 8
#: As long as the format's own library reads.
_MOST_HEADER_BYTES = 100_000_000
#: Types of weights: how they are stored, in how many bytes, and as what they are read. Each value is exact
#: in the latter.
_TYPES: dict[str, tuple[str, int, str]] = {
    "F32": ("<f4", 4, "f4"),
    "F16": ("<f2", 2, "f2"),
    "BF16": ("<u2", 2, "f4"),
}
_DAMAGED = "The file is damaged or incomplete: copy it again from where it was trained."


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file, not read yet."""

    name: str
    type: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Of its data, from the file's start."""

    @property
    def n_bytes(self) -> int:
        return prod(self.shape) * _TYPES[self.type][1]

    def read(self) -> NDArray[Any]:
        """The values as float32, or float16 where they are stored so. ModelError if they are gone."""
        # The server only looks at headers.
        import numpy as np

        stored, _, wanted = _TYPES[self.type]
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = np.fromfile(file, stored, prod(self.shape))
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror or error}.") from error
        if len(data) < prod(self.shape):
            raise ModelError(f"{self.path}: has become shorter while it was read.", hint=_DAMAGED)
        if self.type == "BF16":
            data = (data.astype(np.uint32) << 16).view(np.float32)
        return data.astype(wanted, copy=False).reshape(self.shape)


def read_headers(paths: list[Path]) -> dict[str, StoredTensor]:
    """The tensors of all files, by name. ModelError if one is broken or two have the same tensor."""
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise ModelError(f"{path}: has tensor {name!r}, and {tensors[name].path.name} has it too.")
            tensors[name] = tensor
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name; no data is read.

    Raises:
        ModelError: the file cannot be read, or its header is not as it must be.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            _check_length(path, length, size)
            header = file.read(length)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}.") from error
    start = _LENGTH_BYTES + length
    rows = _parsed(path, header)
    tensors = {name: _tensor(path, name, row, start) for name, row in rows.items()}
    _check_places(path, list(tensors.values()), start, size)
    return tensors


def _check_length(path: Path, length: int, size: int) -> None:
    if size < _LENGTH_BYTES:
        raise ModelError(f"{path}: has {size} bytes, so it is no safetensors file.", hint=_DAMAGED)
    if length > min(size - _LENGTH_BYTES, _MOST_HEADER_BYTES):
        raise ModelError(
            f"{path}: announces a header of {length} bytes, but the file has {size} in all.", hint=_DAMAGED
        )


def _parsed(path: Path, header: bytes) -> dict[str, Mapping[str, Any]]:
    try:
        rows = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its header is no JSON ({error}).", hint=_DAMAGED) from error
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ModelError(f"{path}: its header is no table of tensors.", hint=_DAMAGED)
    rows.pop("__metadata__", None)
    return rows


def _tensor(path: Path, name: str, row: Mapping[str, Any], start: int) -> StoredTensor:
    kind, shape, place = row.get("dtype"), row.get("shape"), row.get("data_offsets")
    where = f"{path}: tensor {name[:200]!r}"
    if not (_are_sizes(shape) and _are_sizes(place) and len(place) == 2):
        raise ModelError(f"{where} has no valid shape or place in the file.", hint=_DAMAGED)
    if kind not in _TYPES:
        raise ModelError(
            f"{where} is of type {reprlib.repr(kind)}, expected one of {', '.join(_TYPES)}.",
            hint="Save the weights in one of these types.",
        )
    needed = prod(shape) * _TYPES[kind][1]
    if place[1] - place[0] != needed:
        raise ModelError(
            f"{where} of shape {shape} and type {kind} takes {needed} bytes, but the header gives it "
            f"{place[1] - place[0]}.",
            hint=_DAMAGED,
        )
    return StoredTensor(name, kind, tuple(shape), path, start + place[0])


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _check_places(path: Path, tensors: list[StoredTensor], start: int, size: int) -> None:
    end = start
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise ModelError(f"{path}: tensor {tensor.name!r} overlaps another one.", hint=_DAMAGED)
        end = tensor.offset + tensor.n_bytes
        if end > size:
            raise ModelError(
                f"{path}: tensor {tensor.name!r} ends at byte {end}, but the file has {size}.", hint=_DAMAGED
            )
