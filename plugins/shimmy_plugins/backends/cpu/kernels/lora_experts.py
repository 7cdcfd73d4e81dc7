"""lora of experts: each entry of a row becomes one for every expert that the row has chosen.

Its place is that of an adapter and an expert, which have a record of their own; its rows are told by where
they begin. So the products of ``lora`` need not know of experts.
"""

from __future__ import annotations

from shimmy.graph.builder import Node
from shimmy_plugins.backends.cpu.emitter import Emitter
from shimmy_plugins.backends.cpu.kernel import Fields, FieldValue, Kernel, Work
from shimmy_plugins.backends.cpu.kernels.lora import ENTRIES, Segment, expand, fields_of, shrink
from shimmy_plugins.backends.cpu.kernels.routing import expert_of
from shimmy_plugins.backends.cpu.lora import UNROLL, Entries, ExpertEntries
from shimmy_plugins.backends.cpu.lowering import Lowering
from shimmy_plugins.backends.cpu.memory import round_up
from shimmy_plugins.backends.cpu.values import I32, I64, LANES

_FIELDS = (
    *ENTRIES, "scales", "chosen", "chosen_stride", "used", "experts", "x_stride", "x_apart", "y_stride",
    "y_apart", "of_x", "of_y", "factors", "of_experts", "entries",
)  # fmt: skip


def _body(e: Emitter, f: Fields, work: Work) -> None:
    with work.claim(e.int(1)):
        at = e.variable(e.int(0))
        with e.loop(0, f.count("count")) as index:
            segment = Segment(e, f, index)
            with e.loop(segment.first, segment.first + segment.count) as entry:
                row, factor = segment.row(entry), f.pointer("scales")[entry]
                with e.loop(0, f.size("used")) as number:
                    place = segment.place * f.size("experts") + expert_of(e, f, row, number)
                    for of in "xy":
                        begin = row * f.size(f"{of}_stride") + number * f.size(f"{of}_apart")
                        f.pointer(f"of_{of}", I32)[at.value] = begin.narrow(I32)
                    f.pointer("factors")[at.value] = factor
                    for word, value in enumerate((place, at.value, e.int(1))):
                        f.pointer("of_experts", I64)[at.value * 3 + word] = value
                    at.value = at.value + 1
        f.pointer("entries", I64)[0] = at.value


KERNEL = Kernel("lora_experts", _FIELDS, _body)


def lower(low: Lowering, node: Node) -> None:
    """Record the calls for a node behind the product of experts."""
    state = low.lora
    assert state is not None, "only a program made for adapters has such nodes"
    y, x, _ = (low.input(node, i) for i in range(3))
    low.alias(node)
    (used, width), (*_, columns) = node.shape, low.shape(node.inputs[1])
    experts = low.weights.matrix(low.node(node.inputs[0]).weights["weight"]).count
    entries, middle = state.of_experts(used)
    _record_entries(low, node, state.late if node.attrs["late"] else state.every, entries, experts)
    own: dict[str, FieldValue] = {
        **fields_of(state.table(node.attrs["target"], width, experts=experts), entries),
        "x": x.array,
        "x_stride": 1,
        "middle": middle,
        "middle_stride": state.middle_stride,
    }
    padded = round_up(columns, UNROLL)
    low.call(
        # Behind a row may be another one's, or nothing.
        shrink(UNROLL if columns == padded else 1),
        reads=[x, entries],
        writes=[middle],
        columns=columns,
        stride_a=padded,
        most_groups=state.most_groups,
        **{**own, "rows": entries.sources},
    )
    low.call(
        expand(apart=True),
        reads=[x, middle, y, entries],
        writes=[y],
        scales=entries.scales,
        y=y.array,
        y_stride=1,
        groups=-(-width // LANES),
        width=width,
        zeros=state.zeros(),
        **own,
    )


def _record_entries(low: Lowering, node: Node, rows: Entries, entries: ExpertEntries, experts: int) -> None:
    """The call that makes ``entries`` of those of ``rows`` and the experts that each row has chosen."""
    x, chosen = low.input(node, 1), low.input(node, 2)
    (used, width), (*_, columns) = node.shape, low.shape(node.inputs[1])
    low.call(
        KERNEL,
        reads=[chosen],
        writes=[entries],
        segments=rows.segments,
        count=rows.count,
        rows=rows.rows,
        scales=rows.scales,
        chosen=chosen.array,
        chosen_stride=chosen.stride,
        used=used,
        experts=experts,
        x_stride=x.stride,
        x_apart=columns if x.width > columns else 0,
        y_stride=low.input(node).stride,
        y_apart=width,
        of_x=entries.sources,
        of_y=entries.rows,
        factors=entries.scales,
        of_experts=entries.segments,
        entries=entries.count,
    )
