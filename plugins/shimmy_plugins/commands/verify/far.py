"""What depends on positions, in a sequence that outlasts windows, KV blocks and tables of positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.builder import Graph, Node
from shimmy.graph.evaluate import evaluator
from shimmy.graph.offload import EXPERT_OPS
from shimmy.graph.reference import ReferenceCache
from shimmy.testing.steps import CHUNK, Part, batch_of
from shimmy_plugins.commands.verify import steps
from shimmy_plugins.commands.verify.pieces import Piece, Tape, side_by_side, single_nodes
from shimmy_plugins.commands.verify.trial import Trial

F32 = NDArray[np.float32]
#: A node, the phase, what the backend found, and what is expected.
Finding: TypeAlias = tuple[Node, str, F32, F32]

_POSITIONAL = ("attention", "rope", "position_embed")
#: Positions at least and at most; behind a window so many.
LEAST, MOST, BEHIND = 80, 4200, 40
#: Rows at the end of a prompt that are compared: the definition of attention is slow.
ROWS = 8


def far(trial: Trial) -> Iterator[Finding]:
    """The first and the last node of each kind, on a prompt in pieces and a token behind it."""
    compared = _kinds(trial.graph)
    if not compared:
        return
    # Settings may want experts computed elsewhere, and then there have to be some.
    experts = [piece for piece in single_nodes(trial.graph) if piece.nodes[0].op in EXPERT_OPS]
    pieces = [*compared, *experts[:1]]
    end = _end(trial, compared)
    tape, given, seen = Tape(), [], []
    graph = side_by_side(trial.graph, pieces, tape)
    with closing(trial.compile(graph, context=end + 1, rows=CHUNK)) as plan:
        blocks = range(-(-(end + 1) // plan.block_tokens))
        plan.reserve(len(blocks))
        starts = [*range(0, end, CHUNK), end]
        for number, start in enumerate(starts):
            trial.progress("far", number, len(starts))
            count = min(CHUNK, end - start) or 1
            batch = batch_of([Part([0] * count, start, blocks)])
            tape.given = {
                (piece, value): trial.noise(pieces[piece], value, count, start)
                for piece in range(len(pieces))
                for value in pieces[piece].inputs
            }
            tape.seen = {}
            steps.run(plan, batch)
            given.append(tape.given)
            seen.append(tape.seen)
        trial.progress("far", len(starts), len(starts))
    for number, piece in enumerate(compared):
        (node,) = piece.nodes
        inputs = [np.concatenate([each[number, value] for each in given]) for value in node.inputs]
        found = np.concatenate([each[number, node.index] for each in seen])
        expected = _expected(trial, node, inputs, end)
        yield node, "prompt", found[-len(expected) : -1], expected[:-1]
        yield node, "generated", found[-1:], expected[-1:]


def _kinds(graph: Graph) -> list[Piece]:
    """Of the nodes of each op with the same numbers and sizes the first and the last, which may be computed
    elsewhere."""
    kinds: dict[str, list[Piece]] = {}
    for piece in single_nodes(graph):
        (node,) = piece.nodes
        if node.op in _POSITIONAL:
            attrs = {name: value for name, value in node.attrs.items() if name != "layer"}
            shapes = [graph.nodes[i].shape for i in node.inputs]
            kinds.setdefault(repr((node.op, shapes, node.weights, attrs)), []).append(piece)
    return [piece for same in kinds.values() for piece in (*same[:1], *same[1:][-1:])]


def _end(trial: Trial, pieces: list[Piece]) -> int:
    """Positions of the prompt."""
    wanted: list[int] = [LEAST]
    for (node,) in (piece.nodes for piece in pieces):
        if window := node.attrs.get("window"):
            wanted.append(window + BEHIND)
        if node.op == "position_embed":
            wanted.append(trial.weights.shape(node.weights["weight"])[0])
    return min(max(wanted), MOST, trial.positions) - 1


def _expected(trial: Trial, node: Node, inputs: list[F32], end: int) -> F32:
    """The last rows by the definition; of attention, those before are only in its cache."""
    size = trial.facts.block_tokens
    cache = ReferenceCache(size, trial.facts.kv_type)
    first = max(0, end - ROWS)
    if node.op == "attention":
        _, keys, values = inputs
        for at in range(first):
            cache.write(node.attrs["layer"], at // size, at % size, keys[at], values[at])
    batch = batch_of([Part([0] * (end + 1 - first), first, range(-(-(end + 1) // size)))])
    tensors = {
        role: trial.weights.dequantize(name).reshape(trial.weights.shape(name))
        for role, name in node.weights.items()
    }
    context = {"batch": batch, "cache": cache, "adapters": {}}
    compute = evaluator(trial.graph.ops[node.op], node)
    return compute([x[first:] for x in inputs], tensors, context)
