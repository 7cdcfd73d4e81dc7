"""Ops without arithmetic across columns, each a shader of its name; and last, which only chooses rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel
from shimmy_plugins.backends.wgpu.ops.row import WORKGROUP, columns, row_op

#: The ops; their shaders share a row out among workgroups.
ELEMENTWISE = frozenset(("add", "gelu", "geglu", "scale", "sigmoid_gate", "slice", "softcap", "swiglu"))
#: Columns of an invocation; it has much to read for one of ``expert_sum``.
_EACH = 4
_EACH_OF_EXPERTS = 1


def elementwise(
    composer: Composer,
    gpu: Gpu,
    op: str,
    width: int,
    *,
    inputs: Sequence[Columns],
    attrs: Mapping[str, Any] | None = None,
    late: bool = False,
) -> Kernel:
    """An op of :data:`ELEMENTWISE`, or ``expert_sum``. Bindings: the inputs, y, step."""
    each = _EACH_OF_EXPERTS if op == "expert_sum" else _EACH
    return row_op(
        composer,
        gpu,
        f"shimmy/ops/{op}.wgsl",
        inputs=inputs,
        width=width,
        attrs=attrs,
        parts=-(-width // (each * WORKGROUP)),
        late=late,
    )


def last(composer: Composer, gpu: Gpu, width: int, *, x: Columns | None = None) -> Kernel:
    """The rows whose logits are wanted, among those of the whole step. Bindings: x, y, step."""
    inputs = [x or columns(width)]
    return row_op(composer, gpu, "shimmy/ops/last.wgsl", inputs=inputs, width=width, late=True)
