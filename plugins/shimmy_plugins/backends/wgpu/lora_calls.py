"""What lowering appends for adapters, beside the products and embeddings they add to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from shimmy.graph.builder import Node
from shimmy_plugins.backends.wgpu.device import ALIGNMENT, Buffer, Slice
from shimmy_plugins.backends.wgpu.fused import Experts, Linear
from shimmy_plugins.backends.wgpu.kernel import Bound, Dispatch
from shimmy_plugins.backends.wgpu.lora import LoraState, Site
from shimmy_plugins.backends.wgpu.memory import Rows
from shimmy_plugins.backends.wgpu.ops import lora
from shimmy_plugins.backends.wgpu.ops.experts import Slots

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.lowering import Lowering


class Published:
    """Where some workgroups tell others A x of a single generated row: a place for each product."""

    def __init__(self, low: Lowering) -> None:
        self._gpu = low.shared.gpu
        self._composer = low.shared.composer
        self._size = 0
        self._buffer: Buffer | None = None

    def take(self, size: int) -> Callable[[], Slice]:
        """Where a product's ``size`` bytes will be."""
        at = self._size
        self._size += -(-size // ALIGNMENT) * ALIGNMENT
        return lambda: self._whole().slice(at, size)

    def clear(self, meets: Callable[[], bool]) -> Dispatch:
        """What a step begins with in which products wait for it; ``meets``: whether any may."""
        kernel = lora.clear(self._composer, self._gpu, self._size, meets)
        return Dispatch("lora.clear", (kernel,), (), (self._whole().whole(),))

    def _whole(self) -> Buffer:
        if self._buffer is None:
            self._buffer = self._gpu.buffer(self._size, "products of adapters")
        return self._buffer


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


@dataclass(frozen=True, slots=True)
class Added:
    """What adapters add to a product of generated rows."""

    beside: lora.Beside
    site: Site
    published: Bound
    """A x of a single row."""
    in_vain: Slice
    """Where it is told that somebody has waited for that in vain."""
    middle: Slice
    """A x of several rows; to be released."""

    @property
    def one(self) -> Sequence[Bound]:
        """What the kernel for one row reads and writes."""
        return self.site.slice, self.published, self.in_vain

    @property
    def several(self) -> Sequence[Bound]:
        """What those for several rows do."""
        return self.site.slice, self.middle


def added(low: Lowering, state: LoraState, item: Linear, published: Published) -> Added:
    """Take memory for what adapters add to a product of generated rows, whose kernels do the rest."""
    site = _site(low, state, item)
    one, several = (_targets(low, state, item, generated=True, copied=copied) for copied in (False, True))

    def numbers() -> int:
        return site.numbers(whole=True)

    def meets() -> bool:
        return state.meets and not site.copies() and numbers() <= one.met

    beside = lora.Beside(one, several, numbers, meets)
    middle = low.memory.take(several.row_bytes * _rows(low, item))
    return Added(beside, site, published.take(one.row_bytes), state.in_vain.whole(), middle)


def shrink(low: Lowering, state: LoraState, item: Linear, x: Slice) -> Shrunk:
    """Append A x for the matrices of a product of rows of prompts."""
    site, targets = _site(low, state, item), _targets(low, state, item)
    kernel = lora.shrink(
        low.shared.composer,
        low.shared.gpu,
        targets,
        _columns(low, item),
        lambda: site.numbers(whole=False),
        late=low.late(item.x),
        picked=low.picked(item.x),
    )
    middle = low.memory.take(targets.row_bytes * _rows(low, item))
    low.call(f"{item.label}.lora.a", [kernel], [x, middle, low.step, site.slice])
    return Shrunk(site, targets, middle)


def _rows(low: Lowering, item: Linear) -> int:
    """Most rows of x, which A x has as well."""
    return low.count(late=low.late(item.x) and not low.picked(item.x))


def _columns(low: Lowering, item: Linear) -> int:
    return prod(low.graph.nodes[item.x].shape)


def _site(low: Lowering, state: LoraState, item: Linear) -> Site:
    return state.site([node.label for node in item.nodes], _columns(low, item))


def _targets(
    low: Lowering, state: LoraState, item: Linear, *, generated: bool = False, copied: bool = False
) -> lora.Targets:
    widths = [prod(node.shape) for node in item.nodes]
    return lora.Targets.of(
        low.shared.gpu, widths, state.max_rank, _columns(low, item), generated=generated, copied=copied
    )


def expand(
    low: Lowering, item: Linear, shrunk: Shrunk, x: Slice, y: Slice, gated: Slice | None = None
) -> None:
    """Append what adds B of it to a product, and release it.

    Args:
        gated: products whose sums are gated to y; else y has the product.
    """
    columns = _columns(low, item)
    width = sum(prod(node.shape) for node in item.nodes) // (2 if gated else 1)
    kernel = lora.expand(
        low.shared.composer,
        low.shared.gpu,
        shrunk.targets,
        width,
        columns,
        gated=gated is not None,
        late=low.late(item.x),
        picked=low.picked(item.x),
    )
    products = [gated] if gated else []
    low.call(f"{item.label}.lora.b", [kernel], [x, *products, y, low.step, *shrunk.bound])
    low.memory.release(shrunk.middle)


def experts(low: Lowering, state: LoraState, item: Experts, slots: Slots) -> None:
    """Append what adds to a product of experts."""
    (node,) = item.nodes
    columns, width = low.graph.nodes[item.x].shape[-1], node.shape[-1]
    site = state.site([node.label], columns, slots.experts)
    late = low.late(*item.inputs)
    kernel = lora.experts(
        low.shared.composer, low.shared.gpu, slots, state.max_rank, width, columns, late=late
    )
    bound = [low.value(item.x).memory, low.value(item.chosen).memory, low.value(item.result).memory]
    low.call(f"{node.label}.lora", [kernel], [*bound, low.step, site.slice])


def embed(low: Lowering, state: LoraState, node: Node, y: Rows) -> None:
    """Append what adds to embeddings."""
    site = state.site([node.label], 0)
    targets = lora.Targets.of(low.shared.gpu, [y.width], state.max_rank, 0)
    kernel = lora.embed(low.shared.composer, low.shared.gpu, targets, y.width)
    low.call(f"{node.label}.lora", [kernel], [low.shared.chosen, y.memory, low.step, site.slice])
