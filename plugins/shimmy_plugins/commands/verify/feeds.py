"""What pieces are given: random rows, rows that show the weights of a node, and choices of experts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.builder import Graph, Node
from shimmy_plugins.commands.verify.pieces import Piece

F32 = NDArray[np.float32]

#: Ops whose second input says which experts compute a row.
_OF_EXPERTS = ("expert_linear", "expert_sum")


def noise(graph: Graph, random: np.random.Generator, piece: Piece, value: int, rows: int, done: int) -> F32:
    """Normal numbers."""
    shape = (rows, *graph.nodes[value].shape)
    if experts := experts_chosen(graph, piece, value):
        return choices(shape, experts, done)
    return random.standard_normal(shape, np.float32)


def showing(graph: Graph, piece: Piece, value: int, rows: int, done: int) -> F32:
    """Rows that show the weights of a node: of a product a column each, of others all alike.

    First the first column, then the last, then those in between: of blocks of 32 a golden section of the
    width apart, each time another place in the block. Each is shown to all experts before the next.
    """
    (node,) = piece.nodes
    shape = (rows, *graph.nodes[value].shape)
    if experts := experts_chosen(graph, piece, value):
        return choices(shape, experts, done)
    if node.op not in ("linear", "expert_linear"):
        return np.ones(shape, np.float32)
    x = np.zeros(shape, np.float32)
    width = shape[-1]
    turns = 1 if node.op == "linear" else turns_of_experts(graph, node)
    for row in range(rows):
        at = (done + row) // turns
        between = 32 * int(at * 0.618034 % 1 * (width // 32)) + 11 * at % 32
        x[row, ..., (0, width - 1)[at] if at < 2 else min(between, width - 1)] = 1
    return x


def experts_chosen(graph: Graph, piece: Piece, value: int) -> int | None:
    """How many experts there are to choose from, if the value is a choice of some."""
    for node in piece.nodes:
        if node.op in _OF_EXPERTS and node.inputs[1] == value:
            names = list(node.weights.values())
            return graph.tensors.shape(names[0])[0] if names else graph.nodes[value].shape[1]
    return None


def turns_of_experts(graph: Graph, node: Node) -> int:
    """How many rows it takes until every expert of a node was chosen."""
    experts, used = graph.tensors.shape(node.weights["weight"])[0], node.shape[0]
    return -(-experts // used)


def choices(shape: tuple[int, ...], experts: int, done: int) -> F32:
    """(rows, 2, used): the experts one after the other, each with the same weight."""
    rows, _, used = shape
    numbers = (done * used + np.arange(rows * used)).reshape(rows, used) % experts
    return np.stack([numbers, np.full_like(numbers, 1)], axis=1).astype(np.float32)
