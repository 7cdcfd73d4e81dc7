"""lora: what adapters add to the rows that have some.

A x is computed for all matrices that read x. For generated rows, some workgroups do so beside those that
multiply or prepare them, and B of it is added where the product ends (``linear_vec``): no dispatch is added.
For rows of prompts, A x has one before the product, B one behind it. Sums are F32 in every precision, each in
one order, so a row's bits do not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shimmy.engine.protocol import MOST_MIXED
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size, one_per_row
from shimmy_plugins.backends.wgpu.ops.experts import Slots

#: Numbers of a weight that are read at once; rows of A and of B are padded to it with zeros.
CHUNK = 8
WORKGROUP = 256
#: Invocations that share a rank of A: many where few rows want their sums soon, few where rows are many.
GENERATED_LANES, PROMPT_LANES = 256, 32
#: How often a product looks whether A x is there before it says that it waits in vain: some milliseconds.
#: Mesa's software adapter ends any loop after 65535 turns, as if it had ended by itself.
PATIENCE = 1 << 14
#: Most invocations of a kernel for generated rows, and so most that compute a chunk of ranks.
_MOST_INVOCATIONS = 512
#: Workgroup memory of a product for the numbers it waits for: most of it, and as a share of all.
_MET_MEMORY, _MET_SHARE = 6 << 10, 8


@dataclass(frozen=True, slots=True)
class Targets:
    """The matrices that read one input and lie one below the other, as shaders of a phase know them."""

    starts: tuple[int, ...]
    """First row of each."""
    stride: int
    """Numbers that ``middle`` has of an entry and a matrix, a multiple of ``CHUNK``."""
    copied: bool
    """Whether it has x itself where there is no A; there must be room for it."""
    lanes: int
    """Neighbouring invocations that share a rank of A."""
    met: int
    """Ranks of an adapter that a product may wait for, for each matrix; a multiple of ``CHUNK``."""

    @classmethod
    def of(
        cls,
        gpu: Gpu,
        widths: Sequence[int],
        max_rank: int,
        columns: int,
        *,
        generated: bool = False,
        copied: bool = False,
    ) -> Targets:
        """``columns``: of x."""
        starts = tuple(sum(widths[:i]) for i in range(len(widths)))
        most = max(max_rank, columns) if copied else max_rank
        chunks = max(-(-columns // CHUNK), 1)
        lanes = min(GENERATED_LANES if generated else PROMPT_LANES, 1 << (chunks - 1).bit_length())
        # A workgroup has at most as many ranks as there are in a chunk of them.
        least = (_MOST_INVOCATIONS if generated else WORKGROUP) // CHUNK
        lanes = min(max(lanes, least), gpu.limits.invocations)
        stride = _stride(most)
        memory = min(_MET_MEMORY, gpu.limits.workgroup_memory // _MET_SHARE)
        met = min(memory // 4 // (MOST_MIXED * len(widths)) // CHUNK * CHUNK, stride)
        return cls(starts, stride, copied, lanes, met)

    @property
    def row_bytes(self) -> int:
        """Memory of A x of a row, and of x where there is no A."""
        return MOST_MIXED * len(self.starts) * self.stride * 4

    @property
    def most(self) -> int:
        """Adapters of a row."""
        return MOST_MIXED

    def workgroups(self, numbers: int, workgroup: int) -> int:
        """How many of so many invocations compute these numbers of a row, for one matrix."""
        return -(-numbers * self.lanes // workgroup)


@dataclass(frozen=True, slots=True)
class Beside:
    """A x computed beside a product of generated rows, by workgroups of the same dispatch."""

    one: Targets
    """Of the product of one row; never x itself."""
    several: Targets
    """Of what prepares several rows, before their product."""
    numbers: Callable[[], int]
    """How many an adapter makes of a row now at most, in whole chunks, those of x itself included."""
    meets: Callable[[], bool]
    """Whether a product of one row may wait for A x now; if not, it is computed as several are. So it is if
    an adapter has a B without an A, or more ranks than may be waited for."""

    def targets(self, rows: int) -> Targets:
        """Those of kernels for so many rows."""
        return self.one if rows == 1 else self.several

    def helpers(self, workgroup: int) -> int:
        """Workgroups that compute A x of a row."""
        return len(self.one.starts) * self.one.workgroups(self.numbers(), workgroup)


def shrink(
    composer: Composer,
    gpu: Gpu,
    targets: Targets,
    columns: int,
    ranks: Callable[[], int],
    *,
    late: bool = False,
    picked: bool = True,
) -> Kernel:
    """middle = A x of all matrices and adapters. Bindings: x, middle, step, lora.

    Args:
        columns: of x.
        ranks: how many numbers an adapter makes of a row here now at most, in whole chunks.
        late: x is the rows whose logits are wanted.
        picked: they lie among all rows then; else with those of all outputs of the step.
    """
    source = _compose(composer, gpu, "lora_shrink", targets, columns=columns, late=late, picked=picked)

    def grid(size: Size) -> tuple[int, int, int]:
        workgroups = targets.workgroups(ranks(), _workgroup(gpu))
        return workgroups, size.count(late=late), len(targets.starts)

    return Kernel(f"lora_shrink {columns}", source, grid)


def clear(composer: Composer, gpu: Gpu, size: int, meets: Callable[[], bool]) -> Kernel:
    """No number of A x is there, in as many bytes, a multiple of 16. Bindings: published.

    ``meets``: whether products of a single row may wait for such numbers now; else nothing is to be done.
    """
    workgroup = _workgroup(gpu)
    source = composer.compose("shimmy/ops/lora_clear.wgsl", workgroup=workgroup, quads=size // 16)

    def grid(step: Size) -> tuple[int, int, int]:
        alone = 1 in (step.rows, step.outputs)
        return -(-size // 16 // workgroup) if alone and meets() else 0, 1, 1

    return Kernel("lora_clear", source, grid)


def expand(
    composer: Composer,
    gpu: Gpu,
    targets: Targets,
    width: int,
    columns: int,
    *,
    gated: bool = False,
    late: bool = False,
    picked: bool = True,
) -> Kernel:
    """y += what adapters add to products. Bindings: x, [products], y, step, lora, middle.

    Args:
        width: columns of y.
        columns: of x, which a B without an A multiplies itself.
        gated: y = silu(gate) * up of the products of two matrices with what is added to them.
        late: x is the rows whose logits are wanted, y those of all outputs of the step.
        picked: see :func:`shrink`.
    """
    workgroup = _workgroup(gpu)
    parameters = {"width": width, "columns": columns, "gated": gated, "late": late, "picked": picked}
    source = _compose(composer, gpu, "lora_expand", targets, **parameters)

    def grid(size: Size) -> tuple[int, int, int]:
        return -(-width // workgroup), size.count(late=late), 1

    return Kernel(f"lora_expand {width}{' swiglu' * gated}", source, grid)


def experts(
    composer: Composer,
    gpu: Gpu,
    slots: Slots,
    max_rank: int,
    width: int,
    columns: int,
    *,
    late: bool = False,
) -> Kernel:
    """y += what adapters add to products of experts. Bindings: x, chosen, y, step, lora; see :class:`Slots`.

    Args:
        width: columns of y of a slot.
        columns: of x.
        late: of all, there are rows for all outputs of the step.
    """
    targets = Targets((0,) * slots.experts, _stride(max_rank), met=0, copied=False, lanes=PROMPT_LANES)
    source = _compose(
        composer,
        gpu,
        "lora_experts",
        targets,
        slots=slots,
        choice=None,
        width=width,
        columns=columns,
        late=late,
        picked=False,
        lanes=PROMPT_LANES,
    )

    def grid(size: Size) -> tuple[int, int, int]:
        return slots.used, size.count(late=late), 1

    return Kernel(f"lora_experts {columns} {width}", source, grid)


def embed(composer: Composer, gpu: Gpu, targets: Targets, width: int) -> Kernel:
    """y += what adapters add to embeddings. Bindings: chosen, y, step, lora; see the op embed."""
    source = _compose(composer, gpu, "lora_embed", targets, width=width, late=False, picked=True)
    return Kernel(f"lora_embed {width}", source, one_per_row)


def _stride(most: int) -> int:
    """Whole chunks with room for so many numbers."""
    return -(-most // CHUNK) * CHUNK


def _workgroup(gpu: Gpu) -> int:
    return min(WORKGROUP, gpu.limits.invocations)


def _compose(composer: Composer, gpu: Gpu, op: str, targets: Targets, **parameters: object) -> str:
    """The shader of an op, with what the files that it includes want to know."""
    return composer.compose(
        f"shimmy/ops/{op}.wgsl",
        shape={"batch": 1},
        place="workgroup",
        workgroup=_workgroup(gpu),
        subgroup=gpu.subgroup,
        lora=targets,
        norm=None,
        total=None,
        **{"slots": None, **parameters},
    )
