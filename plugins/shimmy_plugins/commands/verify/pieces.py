"""Parts of a graph side by side in a graph of their own, each with inputs from outside and results seen.

Two ops make that possible with any engine, for they have a NumPy definition only, which every engine falls
back to: ``verify_given`` is a value that comes from a :class:`Tape`, ``verify_seen`` leaves one there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.batch import Batch
from shimmy.graph.builder import Graph, Node, Value
from shimmy.graph.ops import Op
from shimmy.graph.rewrite import copied
from shimmy.graph.shapes import Shape

F32 = NDArray[np.float32]

#: The number of a piece, and the value.
Key: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """Nodes of a graph, in its order."""

    label: str
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    """Values of other nodes that these read."""
    outputs: tuple[int, ...]
    """Values of these that others read, or that are the graph's output."""


@dataclass(slots=True)
class Tape:
    """What the pieces are given in a step, and what they make of it."""

    given: Mapping[Key, F32] = field(default_factory=dict)
    seen: dict[Key, F32] = field(default_factory=dict)


def single_nodes(graph: Graph) -> list[Piece]:
    """Each node for itself."""
    return [_piece(graph, node.label, [node]) for node in graph.nodes]


def layers(graph: Graph) -> list[Piece]:
    """Each layer (``blk.3``), and what lies between them, as the labels of nodes tell."""
    groups = groupby(graph.nodes, key=lambda node: _layer(node.label))
    return [
        _piece(graph, layer or "+".join(node.label for node in nodes), nodes)
        for layer, nodes in ((layer, list(group)) for layer, group in groups)
    ]


def whole(graph: Graph) -> Piece:
    """The graph itself."""
    return _piece(graph, "logits", graph.nodes)


def side_by_side(graph: Graph, pieces: Sequence[Piece], tape: Tape) -> Graph:
    """A graph of all pieces; its output is of no interest."""
    result = Graph(graph.tensors, {**graph.ops, _GIVEN.name: _GIVEN, _SEEN.name: _SEEN})
    for number, piece in enumerate(pieces):

        def given(index: int, number: int = number) -> Value:
            return _given(result, tape, (number, index), graph.nodes[index].shape)

        values = {index: given(index) for index in piece.inputs}
        for node in piece.nodes:
            inputs = [values[i] for i in node.inputs]
            values[node.index] = copied(result, node, inputs)
        for index in piece.outputs:
            result.op(_SEEN.name, values[index], tape=tape, key=(number, index))
    result.output = result.last(_given(result, tape, _NOTHING, (1,))).index
    return result


def given_rows(*, tape: Tape, key: Key, shape: Shape, batch: Batch) -> F32:
    """The definition of ``verify_given``."""
    if key == _NOTHING:
        return np.zeros((len(batch.tokens), *shape), np.float32)
    rows = tape.given[key]
    assert rows.shape == (len(batch.tokens), *shape)
    return rows


def see_rows(x: F32, *, tape: Tape, key: Key) -> F32:
    """The definition of ``verify_seen``."""
    tape.seen[key] = x.copy()
    return np.zeros((len(x), 1), np.float32)


def _given(graph: Graph, tape: Tape, key: Key, shape: Shape) -> Value:
    return graph.op(_GIVEN.name, tape=tape, key=key, shape=shape)


def _given_shape(_inputs: Sequence[Shape], _weights: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    shape: Shape = attrs["shape"]
    return shape


def _piece(graph: Graph, label: str, nodes: Iterable[Node]) -> Piece:
    nodes = tuple(nodes)
    own = {node.index for node in nodes}
    read_outside = {i for node in graph.nodes if node.index not in own for i in node.inputs}
    inputs = {i: None for node in nodes for i in node.inputs if i not in own}
    outputs = [i for i in own if i in read_outside or i == graph.output]
    return Piece(label, nodes, tuple(inputs), tuple(sorted(outputs)))


def _layer(label: str) -> str:
    """``blk.3`` of ``blk.3.ffn_down``; nothing of ``output``."""
    prefix, _, _ = label.rpartition(".")
    return prefix


#: Given to the output, which no piece has to do with.
_NOTHING: Key = (-1, -1)
_GIVEN = Op("verify_given", "Rows given from outside.", _given_shape, f"{__name__}:given_rows")
_SEEN = Op("verify_seen", "Rows shown outside.", lambda _i, _w, _a: (1,), f"{__name__}:see_rows")
