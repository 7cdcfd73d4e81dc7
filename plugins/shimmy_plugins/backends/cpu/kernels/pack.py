"""Rows of a run into packed blocks of its layout: half of what loading a model does with each weight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import Bytes8, FloatRun, Scales
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.fragments import BYTE, QUAD, move_field, strip_at
from shimmy_plugins.backends.cpu.layouts import AffineLayout, Layout, Packed, Run, ScaleLayout, offset_of
from shimmy_plugins.backends.cpu.values import I8, I16, I32, LANES, Pointer, Value

Array = NDArray[np.generic]

#: Numbers are only moved, so their size is all that matters.
_BY_SIZE = {1: I8, 2: I16, 4: I32}


@cache
def kernel(layout: Layout) -> Kernel:
    """The kernel for a layout; it packs whole row groups."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        del work  # whoever calls it divides the rows
        blocks, size = f.size("blocks"), layout.block.itemsize
        with e.loop(0, f.size("groups")) as group, e.loop(0, blocks) as b:
            block = f.pointer("packed", BYTE) + (group * blocks + b) * size
            _pack_numbers(e, f, layout.block, block, group * LANES * blocks + b, blocks)
            if isinstance(layout, AffineLayout):
                strips = blocks * layout.strips
                with e.loop(0, layout.strips) as s:
                    place, first = strip_at(layout, block, s), b * layout.strips + s
                    _pack_codes(e, f, layout, place, group, first * layout.strip)
                    _pack_numbers(e, f, layout.strip_record, place, group * LANES * strips + first, strips)

    codes = ("codes", "codes_stride") if isinstance(layout, AffineLayout) else ()
    return Kernel(f"pack_{layout.name}", ("groups", "blocks", "packed", *codes, *_per_block(layout)), body)


def fields(layout: Layout, packed: Packed, run: Run) -> Mapping[str, FieldValue]:
    """The kernel's arguments to pack the rows of ``run`` into the row groups ``packed``."""
    groups, blocks = packed.shape
    values: dict[str, FieldValue] = {"groups": groups, "blocks": blocks, "packed": packed}
    for name, array in _arrays(layout, run).items():
        per_block = layout.columns if name == "codes" else _per_block(layout)[name]
        values[name] = array = _padded(array, (groups * LANES, blocks * per_block))
        if name == "codes":
            values["codes_stride"] = array.strides[0]
    return values


def _per_block(layout: Layout) -> dict[str, int]:
    """The fields beside codes, with their numbers per row in a block."""
    counts = {name: layout.block[name].shape[0] for name in _numbers(layout.block)}
    if isinstance(layout, AffineLayout):
        record = layout.strip_record
        counts |= {name: record[name].shape[0] * layout.strips for name in _numbers(record)}
    return counts


def _numbers(record: np.dtype[np.void]) -> list[str]:
    """The fields of a record that are not codes."""
    return [name for name in record.names or () if not name.startswith(("plane", "strips"))]


def _arrays(layout: Layout, run: Run) -> dict[str, Array]:
    """The arrays of a run, by the names of the fields they fill."""
    if isinstance(run, FloatRun):
        return {"values": run.values}
    assert isinstance(layout, AffineLayout)
    arrays: dict[str, Array] = {"codes": run.codes}
    for name, kind, scales in (("scale", layout.scales, run.scales), ("offset", layout.offsets, run.offsets)):
        if isinstance(scales, Scales) and isinstance(kind, ScaleLayout):
            arrays[f"{name}_units"] = scales.units
            if scales.factors is not None:
                arrays[f"{name}_factors"] = _in_nibbles(scales.factors) if kind.nibbles else scales.factors
    return arrays


def _in_nibbles(factors: Bytes8) -> Array:
    """Two neighbours in a byte, the first in the low nibble."""
    return factors[:, ::2] | factors[:, 1::2] << 4


def _padded(array: Array, shape: tuple[int, int]) -> Array:
    """With zeros up to ``shape``, where rows or columns are missing."""
    if array.shape == shape:
        return array
    padded = np.zeros(shape, array.dtype)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded


def _pack_codes(
    e: Emitter, f: Fields, layout: AffineLayout, strip: Pointer, group: Value, column: Value
) -> None:
    """Pack the codes of a strip of 16 rows, from ``column`` on."""
    stride = f.size("codes_stride")
    first = f.pointer("codes", BYTE) + (group * LANES * stride + column)
    rows = [(first + stride * lane).cast(I32) for lane in range(LANES)]
    quads = [e.collect([row[q] for row in rows]) for q in range(layout.strip // QUAD)]
    low = 0
    for width in layout.planes:
        plane = (strip + offset_of(layout.strip_record, f"plane{width}")).cast(I32)
        for word in range(width):
            inside = [q for q in range(len(quads)) if q * width // 8 == word]
            pieces = [move_field(quads[q], width, low, q * width % 8) for q in inside]
            plane[word * LANES] = reduce(lambda a, b: a | b, pieces)
        low += width


def _pack_numbers(
    e: Emitter, f: Fields, record: np.dtype[np.void], at: Pointer, first: Value, per_row: Value
) -> None:
    """Pack a record's fields beside codes; ``first`` is the record's number in its first row."""
    for name in _numbers(record):
        count, element = record[name].shape[0], _BY_SIZE[record[name].base.itemsize]
        source, target = f.pointer(name, element), (at + offset_of(record, name)).cast(element)
        with e.loop(0, count) as i:
            rows = [source[(first + per_row * lane) * count + i] for lane in range(LANES)]
            target[i * LANES] = e.collect(rows)
