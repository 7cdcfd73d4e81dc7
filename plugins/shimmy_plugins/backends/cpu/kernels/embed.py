"""embed and position_embed: rows of a matrix, taken out of the run layout exactly."""

from __future__ import annotations

from functools import cache

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.fragments import BYTE, strip
from shimmy_plugins.backends.cpu.layouts import Layout
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.values import I32, I64, LANES

_FIELDS = ("rows", "numbers", "weight", "blocks", "y", "y_stride")


@cache
def kernel(layout: Layout, instructions: str) -> Kernel:
    """The kernel for a layout: unpacks 16 rows for the sake of one, with the code linear uses.

    ``instructions`` look up the numbers of a codebook.
    """

    def body(e: Emitter, f: Fields, work: Work) -> None:
        with work.claim(f.count("rows")) as row:
            number = f.pointer("numbers", I32)[row].widen(I64)
            y = f.pointer("y") + row * f.size("y_stride")
            group = f.pointer("weight", BYTE) + number // LANES * f.size("blocks") * layout.block.itemsize
            with e.loop(0, f.size("blocks")) as b, e.loop(0, layout.strips) as s:
                weights = strip(layout, group + b * layout.block.itemsize, s, instructions)
                parts = range(layout.strip_groups)
                columns = [weights.weight(part, number) for part in parts for number in weights.columns(part)]
                for i, column in enumerate(columns):
                    y[(b * layout.strips + s) * layout.strip + i] = column.lane(number % LANES)

    return Kernel(f"embed_{layout.name}_{instructions}", _FIELDS, body)


def lower(low: Lowering, node: Node) -> None:
    """Record the call for a node: a row for each token, or for its position."""
    matrix = low.weights.matrix(node.weights["weight"])
    if node.op == "embed":
        numbers = low.step.tokens
        low.step.vocabulary = min(low.step.vocabulary, matrix.rows)
    else:
        numbers = low.step.positions
        low.step.context = min(low.step.context, matrix.rows)
    y = low.output(node)
    low.call(
        kernel(matrix.layout, low.target.dot),
        reads=[],
        writes=[y],
        rows=y.rows,
        numbers=numbers,
        weight=matrix.data,
        blocks=matrix.data.shape[1],
        y=y.array,
        y_stride=y.stride,
    )
