"""Products with the matrices of chosen experts, for one phase of a step.

Generated rows read the matrices of their own experts, slot by slot. Rows of prompts are grouped by expert,
so that tiles of them read a matrix together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from shimmy_plugins.backends.wgpu import lora_calls, singles
from shimmy_plugins.backends.wgpu.device import Slice
from shimmy_plugins.backends.wgpu.fused import Experts
from shimmy_plugins.backends.wgpu.kernel import Cost, Size, Work
from shimmy_plugins.backends.wgpu.memory import FLOAT, Rows
from shimmy_plugins.backends.wgpu.ops.experts import Choice, Slots, expert_groups, group_bytes
from shimmy_plugins.backends.wgpu.ops.linear_tile import linear_tile, tile_for_slots
from shimmy_plugins.backends.wgpu.ops.linear_vec import expert_vec
from shimmy_plugins.backends.wgpu.weights import GpuMatrix

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.generated import Generated
    from shimmy_plugins.backends.wgpu.lowering import Lowering
    from shimmy_plugins.backends.wgpu.prompts import Prompts


def generated(low: Generated, item: Experts) -> None:
    """Append the products of generated rows."""
    how, norm = low.norm(item)
    matrices = list(_matrices(low, item))
    late = low.late(*item.inputs)
    logits, choice = _choice(low, item, whole=len(matrices) == 1)
    x, chosen = low.value(item.x).memory, low.value(item.chosen).memory
    y = low.new(low.graph.nodes[item.result], behind=item.inputs)
    for matrix, slots in matrices:
        kernel = expert_vec(
            low.shared.composer,
            low.shared.gpu,
            matrix.layout,
            matrix.rows // len(slots.here),
            matrix.columns,
            slots,
            precision=low.shared.computes(matrix),
            norm=how,
            ending=item.ending,
            choice=choice,
            late=late,
        )
        bound = [*matrix.slices, *norm, x, y.memory, low.step, chosen, *logits]
        low.call(item.label, [kernel], bound, cost=_cost(matrix, slots, late=late))
    _adapt(low, item, slots)


def _choice(low: Generated, item: Experts, *, whole: bool) -> tuple[list[Slice], Choice | None]:
    """The logits by which products choose themselves, and how; nothing if it is done already."""
    if item.choice is None:
        return [], None
    if not whole:
        singles.lower(low, item.choice, picked=False)
        return [], None
    node = item.choice.node
    logits = low.value(node.inputs[0])
    low.new(node, behind=node.inputs)
    return [logits.memory], Choice.of(node, logits.columns)


def prompts(low: Prompts, item: Experts) -> None:
    """Append the products of rows of prompts, and before the first of them what groups their slots."""
    y: Rows | None = None
    late = low.late(*item.inputs)
    for matrix, slots in _matrices(low, item):
        precision = low.shared.computes(matrix)
        tile = tile_for_slots(slots, int8=precision == "int8")
        groups = _groups(low, item, slots, tile.rows)
        x = low.multiplied(item, precision)
        y = y or low.new(low.graph.nodes[item.result], behind=item.inputs)
        kernel = linear_tile(
            low.shared.composer,
            low.shared.gpu,
            matrix.layout,
            matrix.rows // len(slots.here),
            matrix.columns,
            precision=precision,
            ending=item.ending,
            late=late,
            slots=slots,
            tile=tile,
        )
        bound = [*matrix.slices, *x, y.memory, *groups]
        low.call(item.label, [kernel], bound, cost=_cost(matrix, slots, late=late))
    _adapt(low, item, slots)


def _adapt(low: Lowering, item: Experts, slots: Slots) -> None:
    """Append what adapters add to the product."""
    if low.adapters and low.adapters.experts:
        lora_calls.experts(low, low.adapters, item, replace(slots, here=range(slots.experts)))


def _groups(low: Prompts, item: Experts, slots: Slots, tile_rows: int) -> list[Slice]:
    """The slots by expert, and tiles of them: the same for all products of these."""
    made = low.derived(item.chosen)
    if tile_rows not in made:
        late = low.late(item.chosen)
        sizes = group_bytes(slots, low.count(late=late), tile_rows)
        made[tile_rows] = [low.memory.take(size) for size in sizes]
        kernel = expert_groups(low.shared.composer, low.shared.gpu, slots, tile_rows, late=late)
        label = low.graph.nodes[item.chosen].label
        bound = [low.value(item.chosen).memory, *made[tile_rows], low.step]
        low.call(f"{label}.groups", [kernel], bound)
    return made[tile_rows]


def _matrices(low: Lowering, item: Experts) -> Iterator[tuple[GpuMatrix, Slots]]:
    """The matrices of all experts, or pieces with some of them each."""
    names = [node.weights["weight"] for node in item.nodes]
    experts, rows, _ = low.graph.tensors.shape(names[0])
    used = low.graph.nodes[item.chosen].shape[1]
    own = len(low.graph.nodes[item.x].shape) == 2
    weights = low.shared.weights
    for matrix in [weights.matrix(names)] if len(names) > 1 else weights.pieces(names[0], rows):
        first = matrix.first // rows
        here = range(first, first + matrix.rows // (rows * len(names)))
        yield matrix, Slots(experts, used, own, here)


def _cost(matrix: GpuMatrix, slots: Slots, *, late: bool) -> Cost:
    """Matrices of as many experts as can have been chosen are read once."""

    def cost(size: Size) -> Work:
        slot_rows = size.count(late=late)
        count = slot_rows * slots.used
        rows = matrix.rows // len(slots.here)
        read = matrix.layout.bytes(rows * min(count, len(slots.here)), matrix.columns)
        values = count * rows + slot_rows * matrix.columns
        return Work(read + FLOAT * values, 2 * count * rows * matrix.columns)

    return cost
