"""Ops without arithmetic across columns: swiglu, add, and last, which only chooses rows."""

from __future__ import annotations

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel
from shimmy_plugins.backends.wgpu.ops.row import columns, row_op


def swiglu(
    composer: Composer,
    gpu: Gpu,
    width: int,
    *,
    gate: Columns | None = None,
    up: Columns | None = None,
    late: bool = False,
) -> Kernel:
    """silu(gate) * up. Bindings: gate, up (both may be parts of the rows of one buffer), y, step."""
    inputs = [gate or columns(width), up or columns(width)]
    return row_op(composer, gpu, "shimmy/ops/swiglu.wgsl", inputs=inputs, width=width, late=late)


def add(
    composer: Composer,
    gpu: Gpu,
    width: int,
    *,
    a: Columns | None = None,
    b: Columns | None = None,
    late: bool = False,
) -> Kernel:
    """a + b. Bindings: a, b, y, step."""
    inputs = [a or columns(width), b or columns(width)]
    return row_op(composer, gpu, "shimmy/ops/add.wgsl", inputs=inputs, width=width, late=late)


def last(composer: Composer, gpu: Gpu, width: int, *, x: Columns | None = None) -> Kernel:
    """The rows whose logits are wanted, among those of the whole step. Bindings: x, y, step."""
    inputs = [x or columns(width)]
    return row_op(composer, gpu, "shimmy/ops/last.wgsl", inputs=inputs, width=width, late=True)
