"""Arrays whose rows start at whole vectors, and what memory there is."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from shimmy.engine.machine import available_memory
from shimmy.errors import OutOfMemoryError
from shimmy_plugins.backends.cpu.values import LANES

#: Bytes from which on an array has a mapping of its own.
LARGE = 4 << 20
#: A cache line, also the widest vector.
ALIGNMENT = 64
#: What to do where there is too little.
FREE_MEMORY = "Close other programs, take a smaller model or lower the context."


def round_up(number: int, multiple: int = LANES) -> int:
    """The next multiple; of the lanes in a vector unless told otherwise."""
    return -(-number // multiple) * multiple


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros at a multiple of 64 bytes; large ones take memory only as it is written."""
    kind = np.dtype(dtype)
    count = prod(shape) * kind.itemsize
    raw = np.frombuffer(mapped(count), np.uint8) if count >= LARGE else np.zeros(count + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count].view(kind).reshape(shape)


def mapped(size: int) -> mmap.mmap:
    """Memory straight from the system, in large pages where it has them: fewer to fetch and to look up."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    # Shared mappings, which Python makes unless told, get no large pages.
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A system without large pages refuses, which is no harm.
        with suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def aligned_floats(*shape: int) -> NDArray[np.float32]:
    """An aligned F32 array of zeros."""
    return aligned(shape, np.float32)


def require_memory(what: str, needed: int) -> None:
    """Raise OutOfMemoryError, with the arithmetic, if ``needed`` bytes are not free."""
    available = available_memory()
    if needed > available:
        raise OutOfMemoryError(
            f"{what}: {needed / 2**20:.0f} MiB are needed, {available / 2**20:.0f} MiB are free.",
            hint=FREE_MEMORY,
        )
