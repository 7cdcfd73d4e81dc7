"""Rows of prompts to 8 bits for products with quantised matrices, by the cpu backend's definition."""

from __future__ import annotations

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Kernel, one_per_row
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


def quantize(composer: Composer, gpu: Gpu, columns: int, norm: float | None = None) -> Kernel:
    """Bindings: x, [weight of the norm], xq, xd, step; ``columns`` is a multiple of 4.

    ``xq``: array<vec4<u32>> (rows, 2 * blocks), 16 codes each, those past the last column 0. ``xd``:
    array<vec2<u32>> (rows, blocks): the scale as a float; the sums of the codes of the first and of the last
    16 columns as two int16. ``norm``: x is RMS-normed before, with this eps.
    """
    assert columns % 4 == 0
    source = composer.compose(
        "shimmy/ops/quantize.wgsl",
        columns=columns,
        norm=norm,
        workgroup=max(workgroup_for(gpu, columns // 4), _LEAST_WORKGROUP),
        subgroup=gpu.subgroup,
    )
    return Kernel(f"quantize {columns}", source, one_per_row)
