"""expert_linear: x @ weight[expert].T for the experts that each row has chosen, in the order of a routing.

The products are those of ``linear``, tile for tile: an expert's rows are a range of places, so a
row's bits depend on nothing but itself and the expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.gather import gathered
from shimmy_plugins.backends.cpu.kernels.linear import FloatProduct
from shimmy_plugins.backends.cpu.kernels.linear_int8 import IntegerProduct
from shimmy_plugins.backends.cpu.kernels.outputs import Entries, RowGroup
from shimmy_plugins.backends.cpu.kernels.routing import routing
from shimmy_plugins.backends.cpu.layouts import AffineLayout, Layout
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import I32, I64, Value

_FIELDS = (
    "segments", "count", "entries", "x", "y", "y_stride", "size", "weight", "groups", "blocks",
)  # fmt: skip
_OF_FLOATS = ("x_stride", "sums", "sums_stride")


@cache
def float_kernel(layout: Layout, instructions: str, accumulators: int) -> Kernel:
    """In F32; ``instructions`` look up the numbers of a codebook."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        product = FloatProduct(e, f, layout, instructions, accumulators, work.thread)
        with e.loop(0, f.count("count")) as segment:
            first, rows = (_word(f, segment, word) for word in (1, 2))
            product.sum_groups(first, rows)
        for group, first, rows in _items(e, f, work, layout):
            product.rows(group, first, rows)

    name = f"expert_linear_{layout.name}_{instructions}_{accumulators}"
    return Kernel(name, (*_FIELDS, *_OF_FLOATS), body)


@cache
def integer_kernel(layout: AffineLayout, dot: str, accumulators: int) -> Kernel:
    """With activations of 8 bits."""

    def body(e: Emitter, f: Fields, work: Work) -> None:
        product = IntegerProduct(e, f, layout, dot, accumulators)
        for group, first, rows in _items(e, f, work, layout):
            product.rows(group, first, rows)

    return Kernel(f"expert_linear_int8_{layout.name}_{dot}_{accumulators}", _FIELDS, body)


def _items(e: Emitter, f: Fields, work: Work, layout: Layout) -> Iterator[tuple[RowGroup, Value, Value]]:
    """Each item of work: rows of an expert's weight, its first place, and how many it has."""
    groups = f.size("groups")
    with work.claim(f.count("count") * groups) as item:
        segment, group = item // groups, item % groups
        expert, first, rows = (_word(f, segment, word) for word in range(3))
        yield RowGroup.of(f, layout, group, Entries(e, f), before=expert * groups), first, rows


def _word(f: Fields, segment: Value, word: int) -> Value:
    return f.pointer("segments", I32)[segment * 3 + word].widen(I64)


def lower(low: Lowering, node: Node) -> None:
    """Record the calls for a node: order the choice, bring its input into the order, and multiply."""
    matrix = low.weights.matrix(node.weights["weight"])
    layout, (groups, blocks) = matrix.layout, matrix.data.shape
    used, size = node.shape
    order = routing(low, low.input(node, 1), node.inputs[1], used, matrix.count)
    rounded = low.precision == "int8" and isinstance(layout, AffineLayout)
    x, y = gathered(low, node, order, matrix.columns, rounded=rounded), low.output(node)
    fields: dict[str, FieldValue] = {
        "segments": order.segments,
        "count": order.count,
        "entries": order.entries,
        "x": x.array,
        "y": y.array,
        "y_stride": y.stride,
        "size": size,
        "weight": matrix.data,
        "groups": groups // matrix.count,
        "blocks": blocks,
    }
    if isinstance(layout, AffineLayout) and rounded:
        low.rounds = True
        kernel = integer_kernel(layout, low.target.dot, low.target.accumulators)
    else:
        kernel = float_kernel(layout, low.target.dot, low.target.accumulators)
        sums, stride = low.scratch(order.most_places * blocks * layout.strips * layout.strip_groups)
        fields |= {"x_stride": x.array.shape[1], "sums": sums, "sums_stride": stride}
    low.call(kernel, reads=[x, order], writes=[y], **fields)
