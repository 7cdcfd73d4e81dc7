"""Products of the rows of prompts with a matrix, tile by tile.

The products of a row are added up column by column, in int8 group by group, whatever the tile: its bits
depend neither on the rows beside it nor on the tile's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size
from shimmy_plugins.backends.wgpu.layouts import AffineLayout, GpuLayout

#: What becomes of a product: it is y, it is added to y, or, of a matrix whose first half of rows are those of
#: gate and the others those of up, y is silu(gate) * up.
Epilogue: TypeAlias = Literal["store", "add", "swiglu"]


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
    """1: the memory is filled while nobody computes; always 2 in int8."""

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

    def width(self, epilogue: Epilogue) -> int:
        """Columns of y that come of it."""
        return self.columns // 2 if epilogue == "swiglu" else self.columns

    @property
    def float_bytes(self) -> int:
        """Workgroup memory of a product in F32."""
        return 4 * self.chunk * (self.rows + self.columns) * self.buffers


def linear_tile(
    composer: Composer,
    gpu: Gpu,
    layout: GpuLayout,
    rows: int,
    columns: int,
    *,
    precision: Literal["f32", "int8"],
    epilogue: Epilogue = "store",
    bias: bool = False,
    late: bool = False,
    tile: Tile | None = None,
) -> Kernel:
    """The product of a phase's rows with a matrix of ``rows`` times ``columns``, and what becomes of it.

    Bindings: the parts of the weights, [bias], x, y, step; in int8 instead of x what
    :func:`~shimmy_plugins.backends.wgpu.ops.quantize.quantize` makes of it: xq, xd. Matrices of floats
    are multiplied in F32. ``swiglu`` takes no bias. ``late``: only rows whose logits are wanted, y has those
    of the whole step.
    """
    int8 = precision == "int8" and isinstance(layout, AffineLayout)
    tile = tile or (_INT8_TILE if int8 else float_tile(gpu))
    kind = "int8" if int8 else "f32"
    width = rows // 2 if epilogue == "swiglu" else rows
    source = composer.compose(
        f"shimmy/ops/linear_tile_{kind}.wgsl",
        layout=layout,
        width=width,
        columns=columns,
        epilogue=epilogue,
        bias=bias,
        late=late,
        tile=tile,
    )

    def grid(size: Size) -> tuple[int, int, int]:
        count = size.outputs if late else size.rows
        return -(-width // tile.width(epilogue)), -(-count // tile.rows), 1

    return Kernel(f"linear_tile {kind} {layout.name} {rows}x{columns}", source, grid)


#: Takes 12 KiB of the workgroup's memory at most, of the 16 KiB that every GPU has.
_INT8_TILE = Tile(64, 64, 8, 8)


#: For products in F32, the best first: 48, 24 and 16 KiB.
_FLOAT_TILES = (
    Tile(64, 128, 8, 8),
    Tile(64, 128, 8, 8, chunk=16),
    Tile(64, 64, 8, 8, chunk=16),
)


def float_tile(gpu: Gpu) -> Tile:
    """The best tile that a workgroup of this GPU has memory for."""
    return next(tile for tile in _FLOAT_TILES if tile.float_bytes <= gpu.limits.workgroup_memory)
