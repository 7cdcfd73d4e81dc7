"""rms_norm: x / sqrt(mean(x^2) + eps) * weight, over a row or over each of its heads."""

from __future__ import annotations

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel
from shimmy_plugins.backends.wgpu.ops.row import columns, row_op


def rms_norm(
    composer: Composer,
    gpu: Gpu,
    width: int,
    eps: float,
    groups: int = 1,
    *,
    x: Columns | None = None,
    late: bool = False,
) -> Kernel:
    """Bindings: x, weight (width,), y, step. A row is ``groups`` times ``width`` columns, normed apart."""
    return row_op(
        composer,
        gpu,
        "shimmy/ops/rms_norm.wgsl",
        inputs=[x or columns(groups * width)],
        weights=["weight"],
        width=groups * width,
        attrs={"eps": eps},
        parts=groups,
        late=late,
    )
