"""linear for generated rows: a product of a matrix and few rows, as fast as the weights can be read.

The first matrix-vector kernel of a layer also norms its input, the last ones add to the residual or let
gates through: a dispatch that waits for another costs as much as reading some megabytes of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.kernel import Grid, Kernel, Size
from shimmy_plugins.backends.wgpu.layouts import BLOCK, AffineLayout, GpuLayout, padded

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.device import Gpu

Epilogue: TypeAlias = Literal["store", "add", "swiglu"]

#: Rows of x that kernels exist for.
BATCHES = (1, 2, 4, 8)
WORKGROUP = 256
#: Invocations that share a row of the weight, and of one with many chunks.
LANES, MANY_LANES, MANY_CHUNKS = 64, 128, 128
#: Results of an invocation where the matrix has at least so many: they share what is read of x.
EACH, MANY_RESULTS = 2, 16384
#: Workgroups that keep a large GPU busy; rather than more of them, each does more work, and prepares x once.
#: The more rows x has, the longer that takes, and the fewer workgroups there are.
BUSY_WORKGROUPS = 2048
#: Rows of x that are many in this sense.
_MANY_ROWS = 4
#: Workgroup memory for other things than x, and most of it for x: more, and too few workgroups run at a time.
_OTHER_MEMORY, _MOST_MEMORY = 7 << 10, 40 << 10
#: A block of x is rounded to 8 bits by so many neighbours.
_LEAST_LANES = 8
#: Columns of a chunk where weights are floats: 16 or 32 bytes.
_FLOAT_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kernel divides its work; bits of a result depend on ``lanes`` and ``chunk`` only."""

    batch: int
    """Rows of x."""
    lanes: int
    """Invocations that share a row of the weight."""
    owners: int
    """Groups of so many invocations in a workgroup."""
    each: int
    """Results of an invocation, for each row of x."""
    turns: int
    """How often a workgroup does so much."""
    chunk: int
    """Columns that an invocation multiplies at a time."""
    chunks: int
    """In a row."""
    piece: int
    """Chunks of x in workgroup memory at a time."""
    grid_x: int
    grid_z: int
    """Workgroups for all rows of the weight."""

    @property
    def pieces(self) -> int:
        return -(-self.chunks // self.piece)

    @property
    def stride(self) -> int:
        """Distance of a chunk's quads in workgroup memory: odd, so that they lie in different banks."""
        return self.piece | 1


def linear_vec(
    composer: Composer,
    gpu: Gpu,
    layout: GpuLayout,
    rows: int,
    columns: int,
    *,
    precision: str,
    norm: float | None = None,
    epilogue: Epilogue = "store",
    bias: bool = False,
    late: bool = False,
) -> tuple[Kernel, ...]:
    """Kernels for 1, 2, 4 and 8 rows of x at a time; with little workgroup memory, without the last ones.

    Bindings: the weight's parts, [weight of the norm], [bias], x, y, step; x and y are F32 rows.

    Args:
        rows: of the weight. For "swiglu" first those of the gate, then as many of what it lets through.
        precision: "int8" rounds x to 8 bits by 32 columns, if the weight is stored as codes.
        norm: eps of an RMS norm of x that comes first.
        epilogue: "add" adds the product to y.
        late: x is the rows whose outputs are wanted, y those of all outputs of the step.
    """
    int8 = precision == "int8" and isinstance(layout, AffineLayout)
    outputs = rows // 2 if epilogue == "swiglu" else rows
    name = (
        f"linear_vec {layout.name} {rows}x{columns}{' int8' * int8}{' norm' * (norm is not None)} {epilogue}"
    )
    kernels = []
    for shape in _shapes(gpu, layout, outputs, columns, int8):
        source = composer.compose(
            "shimmy/ops/linear_vec.wgsl",
            layout=layout,
            outputs=outputs,
            columns=columns,
            shape=shape,
            int8=int8,
            norm=norm,
            epilogue=epilogue,
            bias=bias,
            late=late,
            workgroup=shape.owners * shape.lanes,
            subgroup=gpu.subgroup,
        )
        kernels.append(Kernel(f"{name} x{shape.batch}", source, _grid(shape, late)))
    return tuple(kernels)


def _shapes(gpu: Gpu, layout: GpuLayout, outputs: int, columns: int, int8: bool) -> Iterator[Shape]:
    """For each number of rows of x that workgroup memory has room for."""
    chunk = BLOCK if isinstance(layout, AffineLayout) else _FLOAT_CHUNK
    chunks = padded(columns) // chunk
    groups = BLOCK // layout.group if isinstance(layout, AffineLayout) else 0
    chunk_bytes = BLOCK + 8 * groups if int8 else chunk * 4
    memory = min(gpu.limits.workgroup_memory - _OTHER_MEMORY, _MOST_MEMORY)
    workgroup = min(WORKGROUP, gpu.limits.invocations)
    many = chunks >= MANY_CHUNKS and (MANY_LANES + 1) * chunk_bytes <= memory
    lanes = min(MANY_LANES if many else LANES, 1 << (chunks - 1).bit_length())
    lanes = max(lanes, gpu.subgroup, _LEAST_LANES)
    owners = workgroup // lanes
    for batch in BATCHES:
        # In F32, more weights and more rows of x together would not fit the registers.
        each = EACH if outputs >= MANY_RESULTS and (int8 or batch < _MANY_ROWS) else 1
        # An odd stride takes up to one chunk more.
        room = (memory // (batch * chunk_bytes) - 1) // lanes * lanes
        if batch > 1 and not room:
            return
        piece = min(chunks, room)
        workgroups = -(-outputs // (owners * each))
        busy = BUSY_WORKGROUPS if batch < _MANY_ROWS else BUSY_WORKGROUPS * 2 // batch
        turns = -(-workgroups // busy) if piece == chunks else 1
        workgroups = -(-workgroups // turns)
        grid_x = min(workgroups, gpu.limits.workgroups)
        grid_z = -(-workgroups // grid_x)
        yield Shape(batch, lanes, owners, each, turns, chunk, chunks, piece, grid_x, grid_z)


def _grid(shape: Shape, late: bool) -> Grid:
    def grid(size: Size) -> tuple[int, int, int]:
        return shape.grid_x, -(-(size.outputs if late else size.rows) // shape.batch), shape.grid_z

    return grid
