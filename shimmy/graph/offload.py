"""A graph in two: what stays, and segments that another engine computes from host memory.

In what stays, a node ``segment`` stands for each segment: its inputs are the values the segment reads, its
result is the one that others read of it. All segments lie one behind the other in a graph of their own,
each between its nodes ``enter``, a value it is given, and its node ``leave``.

Nodes are told apart by their layers, as labels name them, and by their ops; no architecture is known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import GraphError
from shimmy.graph.builder import Graph, Node, Value
from shimmy.graph.ops import Op
from shimmy.graph.rewrite import copied, late_values
from shimmy.graph.shapes import Shape

if TYPE_CHECKING:
    from shimmy.graph.batch import Batch

F32 = NDArray[np.float32]

#: Computes a segment, by its number, for a batch and rows of its inputs.
RunSegment: TypeAlias = "Callable[[int, Batch, Sequence[F32]], F32]"

#: Ops whose results depend on which experts a row has.
EXPERT_OPS = ("expert_linear", "expert_sum")

_LAYER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Split:
    """Two graphs that together compute what one did."""

    graph: Graph
    """What stays, with nodes ``segment``."""
    host: Graph
    """All segments, in the order of their numbers."""
    what: str
    """What left, for people: "layers 0 to 3, experts of 4 layers"."""


def layer_of(node: Node) -> int | None:
    """The layer a node belongs to; None if it lies before, between or behind layers."""
    found = _LAYER.match(node.label)
    return int(found[1]) if found else None


def layer_count(graph: Graph) -> int:
    """One more than the highest layer."""
    return max((layer for node in graph.nodes if (layer := layer_of(node)) is not None), default=-1) + 1


def expert_layers(graph: Graph) -> list[int]:
    """The layers that have experts."""
    layers = {layer_of(node) for node in graph.nodes if node.op in EXPERT_OPS}
    return sorted(layer for layer in layers if layer is not None)


def split(graph: Graph, *, keep_layers: int | None = None, experts_of: int = 0) -> Split | None:
    """The graph in two; None if nothing is to leave it.

    Args:
        keep_layers: only the last so many layers stay, and what lies behind them; None: all do. What lies
            before the layers leaves with the first of them.
        experts_of: of the first so many layers, the experts leave: what is computed with the weights of
            those chosen, and their sum, but not how they are chosen.

    Raises:
        GraphError: what is to leave hands on more than one value, or picks the rows whose logits are wanted.
    """
    first = 0 if keep_layers is None else max(layer_count(graph) - keep_layers, 0)
    experts = [layer for layer in expert_layers(graph) if first <= layer < experts_of]
    regions = [region for layer in experts for region in _experts(graph, layer)]
    what = [f"experts of {_count(len(experts), 'layer')}"] if experts else []
    if leaving := [n.index for n in graph.nodes if (layer := layer_of(n)) is not None and layer < first]:
        regions.insert(0, _region(graph, f"layers.{first}", range(max(leaving) + 1)))
        what.insert(0, "layer 0" if first == 1 else f"layers 0 to {first - 1}")
    return Split(*_rewritten(graph, regions), ", ".join(what)) if regions else None


@dataclass(frozen=True, slots=True)
class _Region:
    """Nodes that leave together, by their indices in ascending order."""

    label: str
    nodes: Sequence[int]
    inputs: Sequence[int]
    """Values of other nodes that these read."""
    output: int
    """The value that others read of these."""


def _experts(graph: Graph, layer: int) -> list[_Region]:
    """The expert nodes of a layer and what lies between them; those that have nothing to do with each other
    apart."""
    nodes = [node for node in graph.nodes if layer_of(node) == layer]
    behind: set[int] = set()
    for node in nodes:
        if node.op in EXPERT_OPS or behind.intersection(node.inputs):
            behind.add(node.index)
    before: set[int] = set()
    for node in reversed(nodes):
        if node.op in EXPERT_OPS or node.index in before:
            before.update((node.index, *node.inputs))
    groups: list[list[int]] = []
    for index in sorted(behind & before):
        read = [group for group in groups if not set(graph.nodes[index].inputs).isdisjoint(group)]
        groups = [group for group in groups if group not in read]
        groups.append([*sorted(i for group in read for i in group), index])
    return [_region(graph, f"blk.{layer}.experts", group) for group in groups]


def _region(graph: Graph, label: str, nodes: Sequence[int]) -> _Region:
    own = set(nodes)
    if any(graph.nodes[i].op == "last" for i in own):
        raise GraphError(f"{label}: picks the rows whose logits are wanted, so it cannot be computed apart.")
    inputs = {i for index in own for i in graph.nodes[index].inputs} - own
    read = {i for node in graph.nodes if node.index not in own for i in node.inputs} | {graph.output}
    outputs = sorted(own & read)
    if outputs != [nodes[-1]]:
        found = ", ".join(graph.nodes[i].label for i in outputs)
        raise GraphError(
            f"{label}: others read {found} of it, so it cannot be computed apart; "
            f"expected only the last, {graph.nodes[nodes[-1]].label}."
        )
    return _Region(label, nodes, sorted(inputs), nodes[-1])


def _rewritten(graph: Graph, regions: Sequence[_Region]) -> tuple[Graph, Graph]:
    """The graph with a node for each region, and the graph of all regions."""
    ops = {**graph.ops, **SEGMENT_OPS}
    stays, host = (Graph(graph.tensors, ops, graph.scaling) for _ in range(2))
    left = {index for region in regions for index in region.nodes}
    ends = {region.output: number for number, region in enumerate(regions)}
    late = late_values(graph)
    values: dict[int, Value] = {}
    for node in graph.nodes:
        if node.index not in left:
            values[node.index] = copied(stays, node, [values[i] for i in node.inputs])
        elif node.index in ends:
            number = ends[node.index]
            region = regions[number]
            given = [values[i] for i in region.inputs]
            values[node.index] = stays.op(
                "segment", *given, label=region.label, number=number, shape=node.shape
            )
            host.output = _copy_region(host, graph, region, number, late).index
    stays.output = values[graph.output].index
    return stays, host


def _copy_region(host: Graph, graph: Graph, region: _Region, number: int, late: set[int]) -> Value:
    values: dict[int, Value] = {}
    for place, index in enumerate(region.inputs):
        values[index] = host.op(
            "enter",
            label=f"{region.label}.enter",
            number=number,
            place=place,
            shape=graph.nodes[index].shape,
            late=index in late,
        )
    for index in region.nodes:
        node = graph.nodes[index]
        values[index] = copied(host, node, [values[i] for i in node.inputs])
    return host.op("leave", values[region.output], label=f"{region.label}.leave", number=number)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# -- the ops -----------------------------------------------------------------------------------------


def segment(*inputs: F32, number: int, shape: Shape, batch: Batch, segments: RunSegment) -> F32:
    """The definition of ``segment``; ``segments`` is who computes them."""
    return segments(number, batch, inputs).reshape(-1, *shape)


def enter(*, number: int, place: int, shape: Shape, late: bool, given: Sequence[F32]) -> F32:
    """The definition of ``enter``; ``given`` are the inputs of the segment that is computed."""
    del number, late
    return given[place].reshape(-1, *shape)


def leave(x: F32, *, number: int) -> F32:
    """The definition of ``leave``."""
    del number
    return x


def _told(_inputs: Sequence[Shape], _weights: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    shape: Shape = attrs["shape"]
    return shape


def _by_name(ops: Iterable[Op]) -> dict[str, Op]:
    return {op.name: op for op in ops}


#: What stands for segments in the two graphs.
SEGMENT_OPS = _by_name(
    (
        Op("segment", "What another engine makes of the inputs.", _told, f"{__name__}:segment"),
        Op("enter", "An input of a segment; late: a row for each output only.", _told, f"{__name__}:enter"),
        Op("leave", "The result of a segment.", lambda inputs, _w, _a: inputs[0], f"{__name__}:leave"),
    )
)
