"""What lowering appends for adapters, beside the products and embeddings they add to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from shimmy.graph.builder import Node
from shimmy_plugins.backends.wgpu.device import Slice
from shimmy_plugins.backends.wgpu.fusion import Linear
from shimmy_plugins.backends.wgpu.kernel import Bound
from shimmy_plugins.backends.wgpu.lora import LoraState, Site
from shimmy_plugins.backends.wgpu.memory import Rows
from shimmy_plugins.backends.wgpu.ops import lora

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.lowering import Lowering


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A x of the adapters of a product, before B of it is added."""

    site: Site
    targets: lora.Targets
    middle: Slice
    """To be released."""

    @property
    def bound(self) -> Sequence[Bound]:
        """What B of it is computed of."""
        return self.site.slice, self.middle


def shrink(
    low: Lowering, state: LoraState, item: Linear, x: Slice, norm: Node | None = None, *, copied: bool = False
) -> Shrunk:
    """Append A x for the matrices of a product.

    Args:
        norm: x is still to be normed.
        copied: what reads the result has no x, so it gets that where there is no A.
    """
    columns = prod(low.graph.nodes[item.x].shape)
    widths = [prod(node.shape) for node in item.nodes]
    site = state.site([node.label for node in item.nodes], columns)
    targets = lora.Targets.of(widths, state.max_rank, columns, copied=copied)
    kernel = lora.shrink(
        low.shared.composer,
        low.shared.gpu,
        targets,
        columns,
        lambda: site.numbers(whole=copied),
        norm=norm.attrs["eps"] if norm else None,
        late=low.late(item.x),
    )
    middle = low.memory.take(targets.row_bytes * low.rows)
    weight = [low.shared.weights.vector(norm.weights["weight"])] if norm else []
    low.call(f"{item.label}.lora.a", [kernel], [*weight, x, middle, low.step, site.slice])
    return Shrunk(site, targets, middle)


def expand(
    low: Lowering, item: Linear, shrunk: Shrunk, x: Slice, y: Slice, gated: Slice | None = None
) -> None:
    """Append what adds B of it to a product, and release it.

    Args:
        gated: products whose sums are gated to y; else y has the product.
    """
    columns = prod(low.graph.nodes[item.x].shape)
    width = sum(prod(node.shape) for node in item.nodes) // (2 if gated else 1)
    kernel = lora.expand(
        low.shared.composer,
        low.shared.gpu,
        shrunk.targets,
        width,
        columns,
        gated=gated is not None,
        late=low.late(item.x),
    )
    products = [gated] if gated else []
    low.call(f"{item.label}.lora.b", [kernel], [x, *products, y, low.step, *shrunk.bound])
    low.memory.release(shrunk.middle)


def embed(low: Lowering, state: LoraState, node: Node, y: Rows) -> None:
    """Append what adds to embeddings."""
    site = state.site([node.label], 0)
    targets = lora.Targets.of([y.width], state.max_rank, 0)
    kernel = lora.embed(low.shared.composer, low.shared.gpu, targets, y.width)
    low.call(f"{node.label}.lora", [kernel], [low.shared.chosen, y.memory, low.step, site.slice])
