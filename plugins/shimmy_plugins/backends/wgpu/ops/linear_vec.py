"""linear for generated rows: a product of a matrix and few rows, as fast as the weights can be read.

For a single row, one dispatch norms it, rounds it to 8 bits, multiplies, and does what comes after, since
a dispatch that waits for another costs as much as reading some megabytes of weights. Each workgroup prepares
the row for itself. With several rows that would take longer than the product: another dispatch prepares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel, Size
from shimmy_plugins.backends.wgpu.layouts import BLOCK, AffineLayout, GpuLayout, padded
from shimmy_plugins.backends.wgpu.ops.ending import Ending, width_of
from shimmy_plugins.backends.wgpu.ops.experts import Choice, Slots
from shimmy_plugins.backends.wgpu.ops.lora import PATIENCE, Beside
from shimmy_plugins.backends.wgpu.ops.norm import Norm

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.device import Gpu

#: Rows of x of the kernels for several; in F32, more would not fit the registers. Each is compiled.
BATCHES = {"int8": (4, 8), "f32": (4,)}
#: Invocations of those that prepare x, and of those for several rows, which find it prepared.
WORKGROUP, SMALL_WORKGROUP = 512, 128
#: Invocations that share a row of the weight, and of one with many chunks.
LANES, MANY_LANES, MANY_CHUNKS = 64, 128, 128
#: Results of an invocation where the matrix has at least so many: they share what is read of x.
EACH, MANY_RESULTS = 2, 16384
#: Workgroups that keep a large GPU busy, and of those that wait for an adapter, of which fewer run at a time.
#: Those that prepare x are not more, but do more each.
BUSY_WORKGROUPS, BUSY_WAITING = 400, 264
#: Workgroup memory for other things than x, and most of it for x: more, and too few workgroups run at a time.
_OTHER_MEMORY, _MOST_MEMORY = 10 << 10, 32 << 10
#: A block of x is rounded to 8 bits by so many neighbours.
_LEAST_LANES = 8
#: Columns of a chunk where weights are floats: 16 or 32 bytes.
_FLOAT_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kernel divides its work; the bits of a result depend on ``lanes`` and ``chunk`` only."""

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
    """Chunks of x that are there at a time."""
    stride: int
    """Distance of a chunk's quads in x; odd in workgroup memory, so that they lie in different banks."""
    grid_x: int
    grid_z: int
    """Workgroups for all rows of the weight."""

    @property
    def workgroup(self) -> int:
        """Invocations."""
        return self.owners * self.lanes

    @property
    def pieces(self) -> int:
        return -(-self.chunks // self.piece)


@dataclass(frozen=True, slots=True)
class VecKernels:
    """The kernels of a product. All of them give a row the same bits."""

    one: Kernel
    """For one row of x. Bindings: the weight's parts, [weight of the norm], [bias], x, y, step,
    [lora, published, in_vain]."""
    prepare: Kernel
    """For several rows. Bindings: x, [weight of the norm], the prepared rows, step, [lora, middle]."""
    several: tuple[Kernel, ...]
    """For several rows. Bindings: the weight's parts, [bias], the prepared rows, y, step, [lora, middle]."""
    rows: tuple[int, ...]
    """Each but the last of ``several`` is for at most so many rows."""
    row_bytes: tuple[int, ...]
    """The buffers of the prepared rows: bytes of a row in each."""


def linear_vec(
    composer: Composer,
    gpu: Gpu,
    layout: GpuLayout,
    rows: int,
    columns: int,
    *,
    precision: str,
    norm: Norm | None = None,
    total: Norm | None = None,
    ending: Ending = "store",
    bias: bool = False,
    y: Columns | None = None,
    late: bool = False,
    picked: bool = True,
    lora: Beside | None = None,
) -> VecKernels:
    """Kernels for F32 rows x and y; those for one row do nothing for several, nor the other way round.

    Args:
        rows: of the weight.
        precision: "int8" rounds x to 8 bits by 32 columns, if the weight is stored as codes.
        norm: what is done to x first.
        total: before that, x is normed so and added to something. Three more bindings, the last ones, of the
            kernels with x: what is added to, the weight, and the sum, which is kept. Columns are whole quads.
        y: where its rows have the product; None: they are nothing else. A bias is for all of a row.
        late: x is the rows whose outputs are wanted, y those of all outputs of the step.
        picked: they lie among all rows then; else with those of all outputs, too.
        lora: what adapters add is added to the product. ``published`` has zeros before.
    """
    int8 = precision == "int8" and isinstance(layout, AffineLayout)
    outputs = width_of(rows, ending)
    busy = BUSY_WAITING if lora else BUSY_WORKGROUPS
    one, *several = _shapes(gpu, layout, outputs, columns, int8, busy)
    compose = partial(
        _compose,
        composer,
        gpu,
        layout=layout,
        outputs=outputs,
        columns=columns,
        int8=int8,
        norm=norm,
        total=total,
        ending=ending,
        bias=bias,
        y=y or Columns(outputs, outputs),
        late=late,
        picked=picked,
    )
    name = f"{layout.name} {rows}x{columns}{' int8' * int8}{' norm' * (norm is not None)}"

    def product(shape: Shape, place: str) -> Kernel:
        source = compose("linear_vec", shape, place, lora=lora.targets(shape.batch) if lora else None)
        grid = partial(_grid, shape, late, lora)
        return Kernel(f"linear_vec {name} {ending} x{shape.batch}", source, grid)

    single, workgroup = replace(several[0], batch=1), one.workgroup
    prepare = compose(
        "prepare_vec", single, "output", workgroup=workgroup, lora=lora.several if lora else None
    )
    return VecKernels(
        one=product(one, "workgroup"),
        prepare=Kernel(f"prepare_vec {name}", prepare, partial(_grid_prepare, workgroup, late, lora)),
        several=tuple(product(shape, "buffer") for shape in several),
        rows=tuple(shape.batch for shape in several[:-1]),
        row_bytes=_row_bytes(layout, columns, int8),
    )


def expert_vec(
    composer: Composer,
    gpu: Gpu,
    layout: GpuLayout,
    rows: int,
    columns: int,
    slots: Slots,
    *,
    precision: str,
    norm: Norm | None = None,
    ending: Ending = "store",
    choice: Choice | None = None,
    late: bool = False,
) -> Kernel:
    """The products of all slots, each with the matrix of its expert; one kernel for any number of rows.

    Bindings: the weight's parts, [weight of the norm, its bias behind it], x, y, step, chosen, [logits].
    ``rows``: of the weight, for one expert; all experts' gates come before what they let through. ``choice``:
    it chooses itself, by the logits, and keeps the choice. ``late``: rows are those whose logits are wanted,
    and lie so. Others are those of :func:`linear_vec`.
    """
    int8 = precision == "int8" and isinstance(layout, AffineLayout)
    outputs = width_of(rows, ending)
    shape = next(_shapes(gpu, layout, outputs, columns, int8, BUSY_WORKGROUPS, slots.used))
    source = _compose(
        composer,
        gpu,
        "linear_vec",
        shape,
        "workgroup",
        layout=layout,
        outputs=outputs,
        columns=columns,
        int8=int8,
        norm=norm,
        ending=ending,
        y=Columns(outputs, outputs),
        late=late,
        picked=False,
        slots=slots,
        choice=choice,
    )
    name = f"{layout.name} {slots.used} of {slots.experts} {rows}x{columns}{' int8' * int8}"

    def grid(size: Size) -> tuple[int, int, int]:
        return shape.grid_x, size.count(late=late) * slots.used, shape.grid_z

    return Kernel(f"expert_vec {name} {ending}", source, grid)


def _compose(composer: Composer, gpu: Gpu, op: str, shape: Shape, place: str, **parameters: object) -> str:
    """The shader of an op; of what is not among the parameters it has none."""
    none = {"total": None, "bias": False, "lora": None, "slots": None, "choice": None}
    common = {"workgroup": shape.workgroup, "subgroup": gpu.subgroup, "patience": PATIENCE}
    return composer.compose(f"shimmy/ops/{op}.wgsl", shape=shape, place=place, **none | common | parameters)


def _row_bytes(layout: GpuLayout, columns: int, int8: bool) -> tuple[int, ...]:
    """Of a prepared row: of its codes and of what belongs to their groups, or of its floats."""
    if int8 and isinstance(layout, AffineLayout):
        return padded(columns), padded(columns) // layout.group * 8
    return (padded(columns) * 4,)


def _alone(late: bool, lora: Beside | None, size: Size) -> bool:
    """Whether the kernel for one row computes a step."""
    return size.count(late=late) == 1 and (lora is None or lora.meets())


def _grid(shape: Shape, late: bool, lora: Beside | None, size: Size) -> tuple[int, int, int]:
    alone = shape.batch == 1
    helpers = lora.helpers(shape.workgroup) if lora and alone else 0
    mine = _alone(late, lora, size) == alone
    return shape.grid_x + helpers, -(-size.count(late=late) // shape.batch) if mine else 0, shape.grid_z


def _grid_prepare(workgroup: int, late: bool, lora: Beside | None, size: Size) -> tuple[int, int, int]:
    rows = 0 if _alone(late, lora, size) else size.count(late=late)
    return 1 + (lora.helpers(workgroup) if lora else 0), rows, 1


def _shapes(
    gpu: Gpu, layout: GpuLayout, outputs: int, columns: int, int8: bool, busy: int, beside: int = 1
) -> Iterator[Shape]:
    """For one row of x, in at most ``busy`` workgroups, then for several; ``beside``: products at a time."""
    chunk = BLOCK if isinstance(layout, AffineLayout) else _FLOAT_CHUNK
    chunks = padded(columns) // chunk
    groups = BLOCK // layout.group if isinstance(layout, AffineLayout) else 0
    # One row of x in workgroup memory, or what has room of it; an odd stride takes up to one chunk more.
    chunk_bytes = BLOCK + 8 * groups if int8 else chunk * 4
    room = min(gpu.limits.workgroup_memory - _OTHER_MEMORY, _MOST_MEMORY) // chunk_bytes - 1
    many = chunks >= MANY_CHUNKS and room >= MANY_LANES
    lanes = min(MANY_LANES if many else LANES, 1 << (chunks - 1).bit_length(), room)
    lanes = max(1 << lanes.bit_length() - 1, gpu.subgroup, _LEAST_LANES)
    piece = min(chunks, max(room // lanes, 1) * lanes)
    for batch in (1, *BATCHES["int8" if int8 else "f32"]):
        owners = max(min(WORKGROUP if batch == 1 else SMALL_WORKGROUP, gpu.limits.invocations) // lanes, 1)
        each = EACH if outputs >= MANY_RESULTS and (int8 or batch == 1) else 1
        workgroups = -(-outputs // (owners * each))
        turns = -(-workgroups * beside // busy) if batch == 1 and piece == chunks else 1
        workgroups = -(-workgroups // turns)
        # There is room for those that compute what adapters add.
        grid_x = min(workgroups, gpu.limits.workgroups // 2)
        grid_z = -(-workgroups // grid_x)
        here, stride = (piece, piece | 1) if batch == 1 else (chunks, chunks)
        yield Shape(batch, lanes, owners, each, turns, chunk, chunks, here, stride, grid_x, grid_z)
