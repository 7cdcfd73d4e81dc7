"""Products of the rows of prompts with a matrix, tile by tile.

The products of a row are added up column by column, in int8 group by group, whatever the tile: its bits
depend neither on the rows beside it nor on the tile's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel, Size
from shimmy_plugins.backends.wgpu.layouts import AffineLayout, GpuLayout
from shimmy_plugins.backends.wgpu.ops.ending import Ending, width_of
from shimmy_plugins.backends.wgpu.ops.experts import Slots, most_tiles


@dataclass(frozen=True, slots=True)
class Tile:
    """How the work is divided."""

    rows: int
    """Of the result, by a workgroup."""
    columns: int
    each_rows: int
    """Of the result, by an invocation."""
    each_columns: int
    chunk: int = 32
    """Columns of x and weights in the workgroup's memory at a time: 16 or 32; always 32 in int8."""
    buffers: int = 2
    """1: the memory is filled while nobody computes."""

    @property
    def across(self) -> int:
        """Invocations beside each other."""
        return self.columns // self.each_columns

    @property
    def down(self) -> int:
        return self.rows // self.each_rows

    @property
    def workgroup(self) -> int:
        return self.across * self.down

    @property
    def results(self) -> list[tuple[int, int]]:
        """Row and column of each result of an invocation: ``down`` and ``across`` apart from the next."""
        return list(product(range(self.each_rows), range(self.each_columns)))

    def width(self, ending: Ending) -> int:
        """Columns of y that come of it."""
        return width_of(self.columns, ending)

    def memory(self, *, int8: bool) -> int:
        """Most bytes of the workgroup's memory it takes."""
        return self.buffers * (self.rows + self.columns) * (48 if int8 else 4 * self.chunk)


#: Rows of a prompt of some length, and of a large tile.
_PROMPT, _LARGE = 512, 64
#: Rows of a matrix, up to which wide tiles would be too few for all of a fast card.
_NARROW = 4096


def tile_for(rows: int, *, int8: bool, late: bool) -> Tile:
    """By what is known before there is a step. Any takes 16 KiB at most, which every GPU has."""
    if late:  # a prompt wants the logits of its last row
        return Tile(16, 64, 4, 4) if int8 else Tile(16, 64, 4, 4, chunk=16, buffers=1)
    if int8:
        return Tile(32, 64, 4, 8) if rows <= _NARROW else Tile(64, 64, 8, 8)
    return (
        Tile(64, 64, 8, 8, chunk=32, buffers=1)
        if rows <= _NARROW
        else Tile(64, 128, 8, 8, chunk=16, buffers=1)
    )


def tile_for_slots(slots: Slots, *, int8: bool) -> Tile:
    """By the rows that an expert has in a prompt of some length."""
    if _PROMPT * slots.used >= _LARGE * slots.experts:
        return Tile(64, 64, 8, 8) if int8 else Tile(64, 64, 8, 8, chunk=32, buffers=1)
    return Tile(32, 64, 4, 8) if int8 else Tile(32, 64, 4, 8, chunk=32, buffers=1)


def linear_tile(
    composer: Composer,
    gpu: Gpu,
    layout: GpuLayout,
    rows: int,
    columns: int,
    *,
    precision: Literal["f32", "int8"],
    ending: Ending = "store",
    bias: bool = False,
    y: Columns | None = None,
    late: bool = False,
    picked: bool = True,
    slots: Slots | None = None,
    tile: Tile | None = None,
) -> Kernel:
    """The product of a phase's rows with a matrix of ``rows`` times ``columns``, and what becomes of it.

    Bindings: the parts of the weights, [bias], x, y, step; in int8 instead of x what
    :func:`~shimmy_plugins.backends.wgpu.ops.quantize.quantize` makes of it: xq, xd. Matrices of floats
    are multiplied in F32. ``y``: where its rows have the product, None: they are nothing else; a bias is
    for all of a row. ``late``: only rows whose logits are wanted, y has those of the whole step;
    ``picked``: x has them among all rows, else as y has them. ``slots``: rows of y are those of slots,
    ``rows`` those of one expert's matrices, as in ``expert_vec``; bound are order and tiles, not the step.
    """
    int8 = precision == "int8" and isinstance(layout, AffineLayout)
    kind = "int8" if int8 else "f32"
    width = width_of(rows, ending)
    tile = tile or tile_for(rows, int8=int8, late=late)
    assert tile.memory(int8=int8) <= gpu.limits.workgroup_memory
    source = composer.compose(
        f"shimmy/ops/linear_tile_{kind}.wgsl",
        layout=layout,
        width=width,
        columns=columns,
        ending=ending,
        bias=bias,
        y=y or Columns(width, width),
        late=late,
        picked=picked,
        slots=slots,
        tile=tile,
    )

    def grid(size: Size) -> tuple[int, int, int]:
        count = size.count(late=late)
        tiles = most_tiles(slots, count, tile.rows) if slots else -(-count // tile.rows)
        return -(-width // tile.width(ending)), tiles, 1

    return Kernel(f"linear_tile {kind} {layout.name} {rows}x{columns}", source, grid)
