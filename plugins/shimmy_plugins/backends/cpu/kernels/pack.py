"""Rows of a run into packed blocks of its layout: half of what loading a model does with each weight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce

import numpy as np
from numpy.typing import NDArray

from shimmy.gguf.quant import FloatRun, Scales
from shimmy_plugins.backends.cpu.emitter import I8, I16, I32, LANES, Emitter, Pointer, Value
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.fragments import BYTE, QUAD, move_field
from shimmy_plugins.backends.cpu.layouts import AffineLayout, Layout, Packed, Run, offset_of

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
            if isinstance(layout, AffineLayout):
                _pack_codes(e, f, layout, block, group, b)
            for name in _numbers(layout):
                _pack_numbers(e, f, layout, block, name, group * LANES * blocks + b)

    codes = ("codes", "codes_stride") if isinstance(layout, AffineLayout) else ()
    return Kernel(f"pack_{layout.name}", ("groups", "blocks", "packed", *codes, *_numbers(layout)), body)


def fields(layout: Layout, packed: Packed, run: Run) -> Mapping[str, FieldValue]:
    """The kernel's arguments to pack the rows of ``run`` into the row groups ``packed``."""
    groups, blocks = packed.shape
    values: dict[str, FieldValue] = {"groups": groups, "blocks": blocks, "packed": packed}
    for name, array in _arrays(run).items():
        per_block = layout.columns if name == "codes" else layout.block[name].shape[0]
        values[name] = array = _padded(array, (groups * LANES, blocks * per_block))
        if name == "codes":
            values["codes_stride"] = array.strides[0]
    return values


def _numbers(layout: Layout) -> list[str]:
    """The fields of a block beside its codes."""
    return [name for name in layout.block.names or () if not name.startswith("plane")]


def _arrays(run: Run) -> dict[str, Array]:
    """The arrays of a run, by the names of the fields they fill."""
    if isinstance(run, FloatRun):
        return {"values": run.values}
    arrays: dict[str, Array] = {"codes": run.codes}
    for name, scales in (("scale", run.scales), ("offset", run.offsets)):
        if isinstance(scales, Scales):
            arrays[f"{name}_units"] = scales.units
            if scales.factors is not None:
                arrays[f"{name}_factors"] = scales.factors
    return arrays


def _padded(array: Array, shape: tuple[int, int]) -> Array:
    """With zeros up to ``shape``, where rows or columns are missing."""
    if array.shape == shape:
        return array
    padded = np.zeros(shape, array.dtype)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded


def _pack_codes(e: Emitter, f: Fields, layout: AffineLayout, block: Pointer, group: Value, b: Value) -> None:
    """Pack the codes of block ``b`` of 16 rows, strip by strip."""
    stride = f.size("codes_stride")
    first = f.pointer("codes", BYTE) + (group * LANES * stride + b * layout.columns)
    with e.loop(0, layout.strips) as s:
        rows = [(first + (stride * lane + s * layout.strip)).cast(I32) for lane in range(LANES)]
        quads = [e.collect([row[q] for row in rows]) for q in range(layout.strip // QUAD)]
        low = 0
        for width in layout.planes:
            plane = (block + offset_of(layout.block, f"plane{width}")).cast(I32)
            for word in range(width):
                inside = [q for q in range(len(quads)) if q * width // 8 == word]
                pieces = [move_field(quads[q], width, low, q * width % 8) for q in inside]
                plane[(s * width + word) * LANES] = reduce(lambda a, b: a | b, pieces)
            low += width


def _pack_numbers(e: Emitter, f: Fields, layout: Layout, block: Pointer, name: str, first: Value) -> None:
    """Pack a field of one block of 16 rows; ``first`` is the block's number in the first row."""
    count, element = layout.block[name].shape[0], _BY_SIZE[layout.block[name].base.itemsize]
    source, target = f.pointer(name, element), block.cast(element)
    at = offset_of(layout.block, name) // layout.block[name].base.itemsize
    with e.loop(0, count) as i:
        rows = [source[(first + f.size("blocks") * lane) * count + i] for lane in range(LANES)]
        target[i * LANES + at] = e.collect(rows)
