"""Write a GGUF file (version 3, little endian): for tests, examples and converters.

write_gguf("tiny.gguf", {"general.architecture": "llama"}, {"a": np.ones((2, 32), np.float32)})
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.cursor import ARRAY, SCALARS, STRING
from shimmy.gguf.header import DEFAULT_ALIGNMENT

_KINDS = {code: kind for kind, code in SCALARS.items()}
# struct code -> the values it holds, in the order tried: counts are unsigned in real files,
# lists of ints (token types) signed.
_INT_RANGES = {"I": (0, 2**32), "i": (-(2**31), 2**31), "Q": (0, 2**64), "q": (-(2**63), 2**63)}
_FLOAT_IDS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as it is to stand in the file: bytes, ggml type id, shape in NumPy order."""

    data: bytes | memoryview
    """A memoryview, of bytes, may share its memory with other tensors."""
    ggml_id: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor whose data are made when it is its turn to be written, and forgotten then."""

    make: Callable[[], Iterable[bytes | memoryview]]
    """Its data, piece by piece."""
    size: int
    """Of all pieces together, in bytes."""
    ggml_id: int
    shape: tuple[int, ...]
    """In NumPy order."""


Tensor: TypeAlias = RawTensor | LazyTensor | NDArray[np.float32] | NDArray[np.float16]


def write_gguf(
    path: str | PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
) -> None:
    """Write ``metadata`` and ``tensors``, in their order.

    Values become: bool BOOL, int the first of UINT32, INT32, UINT64, INT64 that holds it (in lists
    the signed ones come first), float FLOAT32, str STRING, a list ARRAY of what its elements
    need. Arrays must be float32 or float16. ``general.alignment`` is written if not the default.

    Raises:
        TypeError: a value or array of another kind.
        ValueError: a lazy tensor turns out to be of another size.
    """
    if alignment != DEFAULT_ALIGNMENT:
        metadata = {**metadata, "general.alignment": alignment}
    lazy = {name: _lazy(name, tensor) for name, tensor in tensors.items()}
    with Path(path).open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(lazy), len(metadata)))
        for key, value in metadata.items():
            file.write(_string(key) + _value(key, value))
        offset = 0
        for name, tensor in lazy.items():
            offset += -offset % alignment
            file.write(_tensor_row(name, tensor, offset))
            offset += tensor.size
        for tensor in lazy.values():
            _pad(file, alignment)
            start = file.tell()
            file.writelines(tensor.make())
            if file.tell() - start != tensor.size:
                raise ValueError(f"a tensor has {file.tell() - start} bytes, {tensor.size} were announced.")
        _pad(file, alignment)


def _lazy(name: str, tensor: Tensor) -> LazyTensor:
    if isinstance(tensor, LazyTensor):
        return tensor
    raw = _raw(name, tensor)
    return LazyTensor(lambda: [raw.data], len(raw.data), raw.ggml_id, raw.shape)


def _raw(name: str, tensor: RawTensor | NDArray[np.float32] | NDArray[np.float16]) -> RawTensor:
    if isinstance(tensor, RawTensor):
        return tensor
    if tensor.dtype not in _FLOAT_IDS:
        raise TypeError(f"tensor {name!r} is an array of {tensor.dtype}, expected float32 or float16.")
    little_endian = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    return RawTensor(little_endian.tobytes(), _FLOAT_IDS[tensor.dtype], tensor.shape)


def _tensor_row(name: str, tensor: LazyTensor, offset: int) -> bytes:
    dimensions = len(tensor.shape)
    sizes = struct.pack(f"<I{dimensions}Q", dimensions, *reversed(tensor.shape))
    return _string(name) + sizes + struct.pack("<IQ", tensor.ggml_id, offset)


def _pad(file: BinaryIO, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Any) -> bytes:
    """Type and bytes of a metadata value."""
    if isinstance(value, list | tuple):
        kind, data = _elements(key, value, "iIqQ")
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + data
    kind, data = _elements(key, [value], "IiQq")
    return struct.pack("<I", kind) + data


def _elements(key: str, values: Sequence[Any], int_codes: str) -> tuple[int, bytes]:
    """The GGUF type that all ``values`` fit in, and their bytes."""
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return STRING, b"".join(map(_string, values))
    if kinds and kinds <= {list, tuple}:
        # An element of an array of arrays has no type of its own before it: every one is an array.
        return ARRAY, b"".join(_value(key, value)[4:] for value in values)
    if kinds == {bool}:
        code = "?"
    elif kinds <= {int}:
        code = _int_code(key, values, int_codes)
    elif kinds <= {int, float}:
        code = "f"
    else:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"metadata {key!r} holds {names}, expected bool, int, float, str or lists of one.")
    return _KINDS[code], struct.pack(f"<{len(values)}{code}", *values)


def _int_code(key: str, values: Sequence[int], codes: str) -> str:
    for code in codes:
        low, high = _INT_RANGES[code]
        if all(low <= value < high for value in values):
            return code
    raise TypeError(f"metadata {key!r} holds integers that do not fit in 64 bits.")
