"""rms_norm and layer_norm, of rows or of each of their heads; a value may be added to the result."""

from __future__ import annotations

from dataclasses import dataclass

from shimmy.graph.builder import Node
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel
from shimmy_plugins.backends.wgpu.ops.row import columns, row_op

#: The ops.
NORMS = frozenset(("rms_norm", "layer_norm"))


@dataclass(frozen=True, slots=True)
class Norm:
    """How numbers are normed: x / sqrt(mean(x^2) + eps) * weight + bias."""

    eps: float
    centred: bool = False
    """Of x less its mean."""
    bias: bool = False
    """The buffer of the weight has the bias behind it."""

    @classmethod
    def of(cls, node: Node) -> Norm:
        """What a node of :data:`NORMS` does."""
        return cls(node.attrs["eps"], node.op == "layer_norm", "bias" in node.weights)


def norm_tensors(node: Node) -> list[str]:
    """What a kernel's one buffer of a norm has, one behind the other."""
    return [node.weights[role] for role in ("weight", "bias") if role in node.weights]


def norm(
    composer: Composer,
    gpu: Gpu,
    width: int,
    how: Norm,
    groups: int = 1,
    *,
    x: Columns | None = None,
    added: Columns | None = None,
    late: bool = False,
) -> Kernel:
    """Bindings: x, [added], weight and bias (width,), y, step.

    A row is ``groups`` times ``width`` columns, normed apart. ``added``: what is added to the result.
    """
    return row_op(
        composer,
        gpu,
        "shimmy/ops/norm.wgsl",
        inputs=[x or columns(groups * width), *([added] if added else [])],
        weights=["weight"],
        width=groups * width,
        attrs={"norm": how},
        parts=groups,
        late=late,
    )
