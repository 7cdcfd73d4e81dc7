"""A head's part of a block of the KV cache, inside a kernel: reading and writing it in any KV type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

from shimmy.graph.kv import SCALE_GROUP
from shimmy_plugins.backends.cpu.functions import max_lanes
from shimmy_plugins.backends.cpu.kvcache import BLOCK_TOKENS, HeadLayout
from shimmy_plugins.backends.cpu.memory import ALIGNMENT
from shimmy_plugins.backends.cpu.values import F16, F32, I8, I32, LANES, SIZES, Operand, Pointer, Type, Value

#: Elements by KV type.
_ELEMENTS: dict[str, Type] = {"f32": F32, "f16": F16, "q8_0": I8}
_LARGEST_CODE = 127.0


@dataclass(frozen=True, slots=True)
class CachedHead:
    """Keys and values of 32 positions at one head; ``at`` counts bytes. See ``HeadLayout``."""

    at: Pointer
    layout: HeadLayout

    def key(self, dimension: Operand, first: int) -> Value:
        """One dimension of the keys of 16 positions from ``first`` on, still to be scaled."""
        return _floats(self._keys, self._of(dimension) * BLOCK_TOKENS + first)

    def value(self, position: Operand, first: int) -> Value:
        """16 dimensions from ``first`` on of the value of a position, still to be scaled."""
        return _floats(self._values, self._of(position) * self.layout.value_stride + first)

    def key_scale(self, dimension: int, first: int) -> Value:
        """What a dimension of the keys of 16 positions has to be multiplied by."""
        return self._scales(self.layout.key_scales, dimension).vector(first).widen(F32)

    def value_scale(self, dimension: int, first: int) -> Value:
        """What a dimension of the values of 16 positions has to be multiplied by."""
        return self._scales(self.layout.value_scales, dimension).vector(first).widen(F32)

    def put(self, position: Value, key: Pointer, value: Pointer) -> None:
        """Store the key and the value of a position."""
        if self.layout.scaled:
            self._put_codes(position, key, value)
            return
        e, element = self.at.emitter, self._keys.element
        with e.loop(0, self.layout.key_dim) as i:
            self._keys[i * BLOCK_TOKENS + position] = _as(element, key[i])
        start = position * self.layout.value_stride
        with e.loop(0, self.layout.value_dim) as i:
            self._values[start + i] = _as(element, value[i])

    def prefetch_key(self, dimension: Value) -> None:
        """Ask for the memory of a dimension of the keys."""
        _prefetch(self._keys, dimension, BLOCK_TOKENS)

    def prefetch_value(self, position: Value) -> None:
        """Ask for the memory of a position's value."""
        _prefetch(self._values, position, self.layout.value_stride)

    @property
    def _keys(self) -> Pointer:
        return self.at.cast(_ELEMENTS[self.layout.kv_type])

    @property
    def _values(self) -> Pointer:
        return (self.at + self.layout.values).cast(_ELEMENTS[self.layout.kv_type])

    def _scales(self, start: int, dimension: int) -> Pointer:
        """The scales of a dimension, by position."""
        return (self.at + start).cast(F16) + dimension // SCALE_GROUP * BLOCK_TOKENS

    def _put_codes(self, position: Value, key: Pointer, value: Pointer) -> None:
        for first, codes in self._coded(key, self.layout.key_dim, self.layout.key_scales, position):
            for lane in range(min(LANES, self.layout.key_dim - first)):
                self._keys[position + (first + lane) * BLOCK_TOKENS] = codes.lane(lane)
        start = position * self.layout.value_stride
        for first, codes in self._coded(value, self.layout.value_dim, self.layout.value_scales, position):
            self._values[start + first] = codes

    def _coded(self, x: Pointer, size: int, scales: int, position: Value) -> Iterator[tuple[int, Value]]:
        """Store the scales of a vector of so many numbers; yields its codes, 16 at a time."""
        for group in range(0, size, SCALE_GROUP):
            starts = range(group, min(group + SCALE_GROUP, size), LANES)
            parts = [x.first(min(LANES, size - start), start) for start in starts]
            # As integers, since NaN is the largest of them: damage in must be damage out.
            magnitudes = [part.bits(I32) & 0x7FFFFFFF for part in parts]
            largest = max_lanes(reduce(x.emitter.maximum, magnitudes)).bits(F32)
            stored = (largest / _LARGEST_CODE).narrow(F16)
            self._scales(scales, group)[position] = stored
            scale = stored.widen(F32).splat()
            yield from ((start, _codes(part, scale)) for start, part in zip(starts, parts, strict=True))

    def _of(self, number: Operand) -> Value:
        return number if isinstance(number, Value) else self.at.emitter.int(int(number))


def _prefetch(numbers: Pointer, row: Value, width: int) -> None:
    for line in range(0, width, ALIGNMENT // SIZES[numbers.element]):
        numbers.prefetch(row * width + line)


def _floats(numbers: Pointer, at: Value) -> Value:
    """16 numbers of any KV type."""
    vector = numbers.vector(at)
    if numbers.element == I8:
        return vector.to_float(signed=True)
    return vector if numbers.element == F32 else vector.widen(F32)


def _codes(x: Value, scale: Value) -> Value:
    """The nearest codes; zeros where the scale is, and any number where it is NaN or infinite."""
    e = x.emitter
    nothing = e.floats(0.0)
    rounded = e.intrinsic("rint", e.select(nothing < scale, x / scale, nothing))
    most = e.floats(_LARGEST_CODE)
    return e.minimum(e.maximum(-most, rounded), most).to_integer().narrow(I8)


def _as(element: Type, number: Value) -> Value:
    return number if element == F32 else number.narrow(element)
