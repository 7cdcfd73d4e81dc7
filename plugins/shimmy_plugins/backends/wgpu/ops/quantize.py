"""Rows of prompts to 8 bits for products with quantised matrices, by the cpu backend's definition."""

from __future__ import annotations

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, Size
from shimmy_plugins.backends.wgpu.ops.norm import Norm
from shimmy_plugins.backends.wgpu.ops.row import workgroup_for

#: Columns that share a scale.
BLOCK = 32
_LEAST_WORKGROUP = 8


def code_bytes(columns: int) -> int:
    """Bytes of ``xq`` for a row."""
    return -(-columns // BLOCK) * BLOCK


def scale_bytes(columns: int) -> int:
    """Bytes of ``xd`` for a row."""
    return -(-columns // BLOCK) * 8


def quantize(
    composer: Composer,
    gpu: Gpu,
    columns: int,
    norm: Norm | None = None,
    *,
    parts: int = 1,
    late: bool = False,
) -> Kernel:
    """Bindings: x, [weight of the norm, bias behind it], xq, xd, step; ``columns`` is a multiple of 4.

    ``xq``: array<vec4<u32>> (rows, 2 * blocks), 16 codes each, those past the last column 0. ``xd``:
    array<vec2<u32>> (rows, blocks): the scale as a float; the sums of the codes of the first and of the last
    16 columns as two int16. ``norm``: what is done to x before. ``parts``: rows of x for each of the phase.
    ``late``: these are those whose logits are wanted, and lie with those of the whole step.
    """
    assert columns % 4 == 0
    source = composer.compose(
        "shimmy/ops/quantize.wgsl",
        columns=columns,
        norm=norm,
        workgroup=max(workgroup_for(gpu, columns // 4), _LEAST_WORKGROUP),
        subgroup=gpu.subgroup,
        parts=parts,
        late=late,
    )

    def grid(size: Size) -> tuple[int, int, int]:
        return size.count(late=late), parts, 1

    return Kernel(f"quantize {columns}", source, grid)
