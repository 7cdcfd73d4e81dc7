"""embed and position_embed: rows of a matrix, taken out of the run layout exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.kernel import Kernel, one_per_row
from shimmy_plugins.backends.wgpu.layouts import BLOCK, GpuLayout

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.device import Gpu

#: Most invocations that unpack a row together.
WORKGROUP = 64


def embed(
    composer: Composer,
    gpu: Gpu,
    layout: GpuLayout,
    columns: int,
    *,
    rows: range | None = None,
    positions: bool = False,
) -> Kernel:
    """Bindings: the weight's parts, [chosen], y, step.

    ``chosen``: array<i32>, the tokens that step.py's negative ones stand for. ``y``: F32 (rows, columns).
    ``rows``: those of the matrix that are there, if not all; y gets no others. ``positions``: rows are those
    of positions, and nothing is chosen.
    """
    blocks = -(-columns // BLOCK)
    workgroup = min(1 << (blocks - 1).bit_length(), WORKGROUP, gpu.limits.invocations)
    source = composer.compose(
        "shimmy/ops/embed.wgsl",
        layout=layout,
        columns=columns,
        workgroup=workgroup,
        rows=rows,
        positions=positions,
    )
    return Kernel(f"{'position_' * positions}embed {layout.name} {columns}", source, one_per_row)
