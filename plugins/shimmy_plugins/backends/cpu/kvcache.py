"""The paged KV cache: memory of blocks, taken from and given back to the system in chunks."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass

import numpy as np

from shimmy.errors import OutOfMemoryError
from shimmy.graph.kv import SCALE_GROUP
from shimmy_plugins.backends.cpu.memory import ALIGNMENT, FREE_MEMORY, mapped, require_memory, round_up

#: Positions in a block: two vectors.
BLOCK_TOKENS = 32
#: Blocks share a mapping of about this size: few mappings, and memory returns in small pieces.
CHUNK_BYTES = 16 << 20
#: Systems put a mapping of whole large pages at the start of one.
_LARGE_PAGE = 2 << 20
#: Bytes of a number by KV type; numbers of one byte have scales, half floats.
_NUMBER_BYTES = {"f32": 4, "f16": 2, "q8_0": 1}
_SCALE_BYTES = 2


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """The part of a block that belongs to one head of one layer; offsets and sizes in bytes.

    Keys are (key_dim, 32 positions): scores of 16 positions are computed at once. Values are
    (32 positions, value_stride): 16 dimensions of a value are summed at once. Scales, where there
    are any, are (groups of dimensions, 32 positions).
    """

    kv_type: str
    key_dim: int
    value_dim: int

    @property
    def scaled(self) -> bool:
        return self.kv_type == "q8_0"

    @property
    def value_stride(self) -> int:
        return round_up(self.value_dim)

    @property
    def key_scales(self) -> int:
        return self._numbers(self.key_dim)

    @property
    def values(self) -> int:
        return self.key_scales + self._scales(self.key_dim)

    @property
    def value_scales(self) -> int:
        return self.values + self._numbers(self.value_stride)

    @property
    def bytes(self) -> int:
        return self.value_scales + self._scales(self.value_dim)

    def _numbers(self, dimensions: int) -> int:
        return round_up(dimensions * BLOCK_TOKENS * _NUMBER_BYTES[self.kv_type], ALIGNMENT)

    def _scales(self, dimensions: int) -> int:
        return -(-dimensions // SCALE_GROUP) * BLOCK_TOKENS * _SCALE_BYTES if self.scaled else 0


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Where a layer's part of a block lies, head after head; ``offset`` in bytes."""

    offset: int
    heads: int
    head: HeadLayout

    @property
    def end(self) -> int:
        return self.offset + self.heads * self.head.bytes


class KVCache:
    """Blocks of keys and values of all layers. ``addresses[id]`` is what kernels read."""

    def __init__(self, kv_type: str = "f32") -> None:
        self.kv_type = kv_type
        self._layers: dict[int, LayerCache] = {}
        self._chunks: list[mmap.mmap] = []
        self.blocks = 0
        self.addresses = np.zeros(0, np.int64)

    def layer(self, index: int, heads: int, key_dim: int, value_dim: int) -> LayerCache:
        """Declare a layer, before the first ``reserve``; another program of the plan has it too."""
        if index in self._layers:
            return self._layers[index]
        head = HeadLayout(self.kv_type, key_dim, value_dim)
        self._layers[index] = LayerCache(self.block_bytes, heads, head)
        return self._layers[index]

    @property
    def block_bytes(self) -> int:
        return max((layer.end for layer in self._layers.values()), default=0)

    def reserve(self, blocks: int) -> None:
        """Make exactly the ids below ``blocks`` usable. OutOfMemoryError leaves all as it was."""
        if self.block_bytes:
            per_chunk = max(CHUNK_BYTES // self.block_bytes, 1)
            self._resize(-(-blocks // per_chunk), per_chunk)
        self.blocks = blocks

    def close(self) -> None:
        self.reserve(0)

    def _resize(self, chunks: int, per_chunk: int) -> None:
        size = round_up(per_chunk * self.block_bytes, _LARGE_PAGE)
        missing = chunks - len(self._chunks)
        if missing > 0:
            self._chunks += _allocate(missing, size)
        while len(self._chunks) > chunks:
            self._chunks.pop().close()  # unmaps: the memory is the system's again
        starts = np.array([_address(chunk) for chunk in self._chunks], np.int64)
        self.addresses = (starts[:, None] + np.arange(per_chunk) * self.block_bytes).ravel()


def _allocate(count: int, size: int) -> list[mmap.mmap]:
    what = f"memory for {count} more pieces of KV cache, {size / 2**20:.1f} MiB each"
    require_memory(what, count * size)
    try:
        return [mapped(size) for _ in range(count)]
    except OSError as error:
        raise OutOfMemoryError(f"{what}: the system refuses it ({error}).", hint=FREE_MEMORY) from error


def _address(chunk: mmap.mmap) -> int:
    # The ctypes object pins the mapping only while it lives: until this function returns.
    return ctypes.addressof(ctypes.c_char.from_buffer(chunk))
