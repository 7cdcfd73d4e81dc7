"""lora: what adapters add to the rows that have some.

A x comes first, for all matrices that read x, in a dispatch of its own. B of that is added where a generated
row's product ends (``linear_vec``), and in a dispatch of its own to products of rows of prompts. Sums are F32
in every precision, each in one order, so a row's bits do not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shimmy.engine.protocol import MOST_MIXED
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size, one_per_row

#: Numbers of a weight that are read at once; rows of A and of B are padded to it with zeros.
CHUNK = 8
WORKGROUP = 256
#: Invocations that share a rank of A: many where few rows want their sums soon, few where rows are many.
GENERATED_LANES, PROMPT_LANES = 256, 32


@dataclass(frozen=True, slots=True)
class Targets:
    """The matrices that read one input and lie one below the other, as shaders of a phase know them."""

    starts: tuple[int, ...]
    """First row of each."""
    stride: int
    """Numbers that ``middle`` has of an entry and a matrix, a multiple of ``CHUNK``."""
    copied: bool
    """Whether it has x itself where there is no A; there must be room for it."""

    @classmethod
    def of(cls, widths: Sequence[int], max_rank: int, columns: int, *, copied: bool = False) -> Targets:
        """``columns``: of x."""
        most = max(max_rank, columns) if copied else max_rank
        starts = tuple(sum(widths[:i]) for i in range(len(widths)))
        return cls(starts, -(-most // CHUNK) * CHUNK, copied)

    @property
    def row_bytes(self) -> int:
        """Memory of A x of a row."""
        return MOST_MIXED * len(self.starts) * self.stride * 4

    @property
    def most(self) -> int:
        """Adapters of a row."""
        return MOST_MIXED


def shrink(
    composer: Composer,
    gpu: Gpu,
    targets: Targets,
    columns: int,
    ranks: Callable[[], int],
    *,
    norm: float | None = None,
    late: bool = False,
) -> Kernel:
    """middle = A x of all matrices and adapters. Bindings: [weight of the norm], x, middle, step, lora.

    Args:
        columns: of x.
        ranks: how many numbers an adapter makes of a row here now at most, in whole chunks.
        norm: eps of an RMS norm of x that comes first.
        late: x is the rows whose logits are wanted.
    """
    workgroup = _workgroup(gpu)
    chunks = -(-columns // CHUNK)
    lanes = min(GENERATED_LANES if targets.copied else PROMPT_LANES, 1 << (chunks - 1).bit_length())
    # A workgroup has at most as many ranks as there are in a chunk of them.
    lanes = min(max(lanes, workgroup // CHUNK), workgroup)
    source = _compose(
        composer, gpu, "lora_shrink", targets, columns=columns, norm=norm, late=late, lanes=lanes
    )

    def grid(size: Size) -> tuple[int, int, int]:
        return -(-ranks() * lanes // workgroup), size.count(late=late), len(targets.starts)

    return Kernel(f"lora_shrink {columns}", source, grid)


def expand(
    composer: Composer,
    gpu: Gpu,
    targets: Targets,
    width: int,
    columns: int,
    *,
    gated: bool = False,
    late: bool = False,
) -> Kernel:
    """y += what adapters add to products. Bindings: x, [products], y, step, lora, middle.

    Args:
        width: columns of y.
        columns: of x, which a B without an A multiplies itself.
        gated: y = silu(gate) * up of the products of two matrices with what is added to them.
        late: x is the rows whose logits are wanted, y those of all outputs of the step.
    """
    workgroup = _workgroup(gpu)
    source = _compose(
        composer, gpu, "lora_expand", targets, width=width, columns=columns, gated=gated, norm=None, late=late
    )

    def grid(size: Size) -> tuple[int, int, int]:
        return -(-width // workgroup), size.count(late=late), 1

    return Kernel(f"lora_expand {width}{' swiglu' * gated}", source, grid)


def embed(composer: Composer, gpu: Gpu, targets: Targets, width: int) -> Kernel:
    """y += what adapters add to embeddings. Bindings: chosen, y, step, lora; see the op embed."""
    return Kernel(
        f"lora_embed {width}", _compose(composer, gpu, "lora_embed", targets, width=width), one_per_row
    )


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
        **parameters,
    )
