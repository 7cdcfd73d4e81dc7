"""Mixtures of experts: which of them compute a row, and which rows of prompts each of them has.

A row's ``used`` experts are slots; results of all slots lie row by row, slot by slot. The products of slots
are ``expert_vec`` and ``expert_tile``, beside those of other matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

from shimmy.graph.builder import Node
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.kernel import Columns, Kernel
from shimmy_plugins.backends.wgpu.ops.row import WORKGROUP, row_op, workgroup_for


@dataclass(frozen=True, slots=True)
class Slots:
    """The experts of a row, and what they multiply."""

    experts: int
    used: int
    own: bool
    """Whether each slot has a row of x, or all slots of a row have one."""
    here: range
    """The experts of a matrix; slots of others are left alone."""

    @property
    def whole(self) -> bool:
        """Whether all experts are here."""
        return len(self.here) == self.experts


@dataclass(frozen=True, slots=True)
class Choice:
    """How experts of a row are chosen."""

    experts: int
    used: int
    normalize: bool
    scale: float
    logits: Columns

    @classmethod
    def of(cls, node: Node, logits: Columns) -> Choice:
        """What a node of the op does."""
        attrs = node.attrs
        return cls(logits.width, attrs["used"], attrs["normalize"], attrs["scale"], logits)


def top_experts(composer: Composer, gpu: Gpu, choice: Choice, *, late: bool = False) -> Kernel:
    """The op. Bindings: logits, y, step."""
    return row_op(
        composer,
        gpu,
        "shimmy/ops/top_experts.wgsl",
        inputs=[choice.logits],
        width=2 * choice.used,
        attrs={"choice": choice},
        across=choice.experts,
        late=late,
    )


def most_tiles(slots: Slots, rows: int, tile_rows: int) -> int:
    """Most tiles that the slots of so many rows have, of ``tile_rows`` slots of one expert each."""
    count = rows * slots.used
    return count // tile_rows + min(slots.experts, count)


def group_bytes(slots: Slots, rows: int, tile_rows: int) -> tuple[int, int]:
    """Sizes of the buffers of :func:`expert_groups`, for steps of at most so many rows."""
    return rows * slots.used * 4, most_tiles(slots, rows, tile_rows) * 16


def expert_groups(
    composer: Composer, gpu: Gpu, slots: Slots, tile_rows: int, *, late: bool = False
) -> Kernel:
    """Slots in the order of their experts, and tiles of them. Bindings: chosen, order, tiles, step.

    ``order``: array<u32>, numbers of slots. ``tiles``: array<vec4<u32>>, a tile's expert, its first place in
    the order, and the place behind its last; a tile that has none is none. ``late``: rows are those whose
    logits are wanted, among those of the whole step, as their slots are numbered.
    """
    source = composer.compose(
        "shimmy/ops/expert_groups.wgsl",
        slots=slots,
        choice=None,
        tile_rows=tile_rows,
        late=late,
        workgroup=workgroup_for(gpu, WORKGROUP),
    )
    return Kernel(f"expert_groups {slots.used} of {slots.experts}", source, lambda _size: (1, 1, 1))
