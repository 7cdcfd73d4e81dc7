"""The paged KV cache in the GPU's memory: keys and values of each layer, as blocks of positions.

A layer has a buffer of keys and one of values, (blocks, kv_heads, BLOCK_TOKENS, words): a kernel that reads
a head's positions one by one reads adjacent memory. A head's numbers are padded to whole chunks of four:

- "f32": four F32 a chunk;
- "f16": two words a chunk, with two half floats each;
- "q8_0": a word a chunk, with four signed codes; behind the codes a scale for every eight chunks, as F32.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from shimmy.engine.load import DEVICE_KV_SHARE
from shimmy.errors import ConfigError, OutOfMemoryError, did_you_mean
from shimmy.graph.kv import KV_TYPES, SCALE_GROUP
from shimmy_plugins.backends.wgpu.device import Buffer, Gpu, Slice

#: Positions in a block.
BLOCK_TOKENS = 32
#: Numbers of a head that are read at once; a head's last chunk is padded with zeros.
CHUNK = 4
_CHUNK_BYTES = {"f32": 16, "f16": 8, "q8_0": 4}
_SCALE_BYTES = 4
#: What a plan keeps while nobody is served.
_LEAST_BLOCKS = 64


def head_bytes(kv_type: str, dims: int) -> int:
    """Memory of one head's key or value of ``dims`` numbers, at one position."""
    chunks = -(-dims // CHUNK)
    scales = -(-chunks // (SCALE_GROUP // CHUNK)) if kv_type == "q8_0" else 0
    return chunks * _CHUNK_BYTES[kv_type] + scales * _SCALE_BYTES


@dataclass(slots=True)
class _Blocks:
    """The keys, or the values, of a layer."""

    label: str
    block_bytes: int
    buffer: Buffer | None = None

    @property
    def capacity(self) -> int:
        return self.buffer.size // self.block_bytes if self.buffer else 0


@dataclass(slots=True)
class KVCache:
    """Keys and values of all layers. Raises ConfigError if ``kv_type`` is none of KV_TYPES."""

    gpu: Gpu
    kv_type: str
    version: int = 0
    """Another number whenever a buffer was replaced: bind groups must be made anew then."""
    _layers: dict[int, tuple[_Blocks, _Blocks]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kv_type not in KV_TYPES:
            raise ConfigError(
                f"keys and values cannot be stored as {self.kv_type!r}.",
                hint=did_you_mean(self.kv_type, KV_TYPES),
                param="kv_type",
            )

    def add_layer(self, layer: int, kv_heads: int, head_dim: int, v_dim: int) -> None:
        """Declare a layer, before the first ``reserve``; another program of the plan may do so too."""
        if layer not in self._layers:
            sizes = (BLOCK_TOKENS * kv_heads * head_bytes(self.kv_type, dims) for dims in (head_dim, v_dim))
            self._layers[layer] = (
                _Blocks(f"keys of layer {layer}", next(sizes)),
                _Blocks(f"values of layer {layer}", next(sizes)),
            )

    @property
    def block_bytes(self) -> int:
        """Memory of a block, all layers."""
        return sum(part.block_bytes for part in self._parts())

    @property
    def blocks(self) -> int:
        """How many ids are usable; any number where there are no layers."""
        return min((part.capacity for part in self._parts()), default=2**31)

    def slices(self, layer: int) -> tuple[Slice, Slice]:
        """Keys and values of a layer as they are bound; there are none before a block is reserved."""
        keys, values = (part.buffer for part in self._layers[layer])
        assert keys is not None
        assert values is not None
        return keys.whole(), values.whole()

    def reserve(self, blocks: int) -> None:
        """Make the ids below ``blocks`` usable; what they hold stays.

        Another buffer means that all programs are bound anew, which takes longer than many steps. So a few
        positions are there from the first reservation on and stay, growing doubles what there is as far as
        all layers have room for it, and memory is given back when less than a quarter is asked for.

        Raises:
            OutOfMemoryError: they do not fit. The blocks that were usable still are.
        """
        if blocks > self.blocks:
            self._grow(blocks)
        elif max(4 * blocks, _LEAST_BLOCKS) < self.blocks:
            # Where there is no room for the smaller copy, more stays than is needed.
            with suppress(OutOfMemoryError):
                self._resize(max(blocks, _LEAST_BLOCKS))

    def close(self) -> None:
        self._resize(0)

    def _parts(self) -> list[_Blocks]:
        return [part for layer in self._layers.values() for part in layer]

    def _grow(self, blocks: int) -> None:
        """All layers alike: what the first ones take in advance must not be missing to the last."""
        part = max(self._parts(), key=lambda part: part.block_bytes)
        most = min(self.gpu.limits.storage_binding, self.gpu.limits.buffer) // part.block_bytes
        if blocks > most:
            raise self._too_many(blocks, f"a buffer can have {most} blocks of the {part.label} here")
        wanted = min(max(blocks, 2 * self.blocks, _LEAST_BLOCKS), most)
        if self.gpu.free is not None:
            held = [part.capacity * part.block_bytes for part in self._parts()]
            room = self.gpu.free + sum(held)
            # The last buffer to be replaced is there twice for a moment.
            fitting = min(int(room * DEVICE_KV_SHARE), room - max(held)) // self.block_bytes
            wanted = max(min(wanted, fitting), blocks)
        try:
            self._resize(wanted)
        except OutOfMemoryError:
            try:
                self._resize(blocks)
            except OutOfMemoryError as error:
                raise self._too_many(blocks, error.message) from error

    def _resize(self, blocks: int) -> None:
        for part in self._parts():
            if part.capacity != blocks:
                self._replace(part, blocks)

    def _replace(self, part: _Blocks, blocks: int) -> None:
        """Another buffer with the same contents, as far as they fit."""
        old = part.buffer
        new = self.gpu.buffer(blocks * part.block_bytes, part.label) if blocks else None
        if old and new:
            size = min(old.size, new.size)
            self.gpu.copy(old.slice(0, size), new.slice(0, size))
        if old:
            old.destroy()
        part.buffer = new
        self.version += 1

    def _too_many(self, blocks: int, why: str) -> OutOfMemoryError:
        size = blocks * self.block_bytes / 2**20
        return OutOfMemoryError(
            f"a KV cache of {blocks * BLOCK_TOKENS} positions needs "
            f"{blocks} blocks x {self.block_bytes} bytes = {size:.0f} MiB: {why}",
            hint="Take a smaller kv_type, lower the context or kv_memory.",
        )
