"""Which nodes of a graph are computed together: a dispatch that waits for another costs 2 us on a fast card.

Four rewrites, none of which knows an architecture; they look at values and who reads them:

- an RMS norm that only linear nodes read becomes part of these (``Linear.norm``);
- linear nodes of one input become one, if their matrices can lie one below the other and whoever reads
  the results can read a part of a row (``Linear.nodes``);
- ``swiglu`` of two such nodes becomes the end of theirs, an ``add`` the end of the node it adds
  (``Linear.swiglu``, ``Linear.add``);
- a rotation that only attention reads becomes part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from shimmy.graph.builder import Graph, Node

#: Says whether the matrices of these names can lie one below the other.
Mergeable: TypeAlias = Callable[[Sequence[str]], bool]

#: Ops that can read a part of a row; rotations and heads are seen through.
READS_PARTS = ("attention", "swiglu")


@dataclass(frozen=True, slots=True)
class Linear:
    """The product of one input with matrices that lie one below the other."""

    nodes: tuple[Node, ...]
    x: int
    """The value multiplied, or normed and multiplied."""
    result: int
    """The value computed; that of several nodes, a row of all of theirs, is the first one's."""
    norm: Node | None = None
    swiglu: bool = False
    """y = silu(first half) * second half."""
    add: int | None = None
    """A value nobody reads afterwards; the product is added to it in place."""

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x,) if self.add is None else (self.x, self.add)

    @property
    def epilogue(self) -> Literal["store", "add", "swiglu"]:
        """What happens to the product."""
        if self.swiglu:
            return "swiglu"
        return "store" if self.add is None else "add"

    @property
    def label(self) -> str:
        """``blk.0.attn_q+attn_k+attn_v``."""
        first, *others = (node.label for node in self.nodes)
        return "+".join([first, *(label.rpartition(".")[2] for label in others)])


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention, with the rotations of its queries and keys where these are not computed before."""

    node: Node
    inputs: tuple[int, int, int]
    """q, k and v, before rotation."""
    rope: tuple[Node | None, Node | None]
    """Of q and of k."""

    @property
    def result(self) -> int:
        return self.node.index

    @property
    def label(self) -> str:
        return self.node.label


@dataclass(frozen=True, slots=True)
class Single:
    """A node for itself."""

    node: Node

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.node.inputs

    @property
    def result(self) -> int:
        return self.node.index

    @property
    def label(self) -> str:
        return self.node.label


Fused: TypeAlias = Linear | Attention | Single


def fuse(graph: Graph, mergeable: Mergeable) -> list[Fused]:
    """The graph's computations in order; ``heads`` is none, a value split into heads is the value."""
    return _with_adds(graph, _Rewriter(graph, mergeable).rewritten())


def seen_through(graph: Graph, index: int) -> int:
    """The value that a node's result is a view of."""
    while graph.nodes[index].op == "heads":
        index = graph.nodes[index].inputs[0]
    return index


class _Rewriter:
    def __init__(self, graph: Graph, mergeable: Mergeable) -> None:
        self._nodes = graph.nodes
        self._mergeable = mergeable
        self._inputs = [tuple(seen_through(graph, i) for i in node.inputs) for node in graph.nodes]
        self._users: dict[int, list[Node]] = {node.index: [] for node in graph.nodes}
        for node in graph.nodes:
            if node.op != "heads":
                for i in set(self._inputs[node.index]):
                    self._users[i].append(node)
        # The output is read by someone, too, and is not to be part of anything.
        self._shown = seen_through(graph, graph.output)

    def rewritten(self) -> list[Fused]:
        """All but the adds."""
        fused: dict[int, Fused] = {}
        done: set[int] = {node.index for node in self._nodes if node.op == "heads"}
        for node in self._nodes:
            if node.index in done:
                continue
            if node.op == "rms_norm" and self._only(node, ("linear",)):
                continue  # computed by these
            if node.op == "rope" and self._only(node, ("attention",)):
                continue
            item, parts, at = self._start(node)
            done.update(parts)
            fused[at] = item
        return [fused[index] for index in sorted(fused)]

    def _start(self, node: Node) -> tuple[Fused, list[int], int]:
        """What a node is computed in, the nodes this stands for, and the node in whose place."""
        if node.op == "attention":
            return self._attention(node), [node.index], node.index
        if node.op != "linear":
            single = Single(replace(node, inputs=self._inputs[node.index]))
            return single, [node.index], node.index
        source, norm = self._source(node)
        if (swiglu := self._swiglu_of(node)) is not None:
            gate, up = (self._nodes[i] for i in self._inputs[swiglu.index])
            parts = [gate.index, up.index, swiglu.index]
            return Linear((gate, up), source, swiglu.index, norm, swiglu=True), parts, node.index
        group = self._group(node)
        return Linear(tuple(group), source, node.index, norm), [n.index for n in group], node.index

    def _source(self, node: Node) -> tuple[int, Node | None]:
        """What a linear node multiplies, before the norm that it computes itself."""
        (x,) = self._inputs[node.index]
        norm = self._nodes[x]
        if norm.op == "rms_norm" and self._only(norm, ("linear",)):
            return self._inputs[x][0], norm
        return x, None

    def _only(self, node: Node, ops: Iterable[str]) -> bool:
        """Whether only such nodes read a value."""
        users = self._users[node.index]
        return bool(users) and node.index != self._shown and all(user.op in ops for user in users)

    def _swiglu_of(self, node: Node) -> Node | None:
        """The swiglu that a linear node can end with, together with the other that it reads."""
        if not self._only(node, ("swiglu",)) or len(self._users[node.index]) > 1:
            return None
        swiglu = self._users[node.index][0]
        both = [self._nodes[i] for i in self._inputs[swiglu.index]]
        fits = len(set(self._inputs[swiglu.index])) > 1 and all(
            n.op == "linear"
            and self._inputs[n.index] == self._inputs[node.index]
            and self._only(n, ("swiglu",))
            and len(self._users[n.index]) == 1
            and "bias" not in n.weights
            for n in both
        )
        return swiglu if fits and self._mergeable([n.weights["weight"] for n in both]) else None

    def _group(self, node: Node) -> list[Node]:
        """The linear nodes computed with this one, in order."""
        if not self._parts_do(node):
            return [node]
        others = [
            n
            for n in self._users[self._inputs[node.index][0]]
            if n.op == "linear"
            and n.index > node.index
            and self._parts_do(n)
            and self._swiglu_of(n) is None
            and ("bias" in n.weights) == ("bias" in node.weights)
            and self._mergeable([node.weights["weight"], n.weights["weight"]])
        ]
        return [node, *others]

    def _parts_do(self, node: Node) -> bool:
        """Whether all who read a value can read a part of a row."""
        if node.index == self._shown:
            return False
        return all(
            user.op in READS_PARTS or (user.op == "rope" and self._only(user, ("attention",)))
            for user in self._users[node.index]
        )

    def _attention(self, node: Node) -> Attention:
        ropes: list[Node | None] = []
        inputs: list[int] = []
        for index in self._inputs[node.index]:
            source = self._nodes[index]
            if source.op == "rope" and self._only(source, ("attention",)):
                ropes.append(source)
                inputs.append(self._inputs[index][0])
            else:
                ropes.append(None)
                inputs.append(index)
        q, k, v = inputs
        return Attention(node, (q, k, v), (ropes[0], ropes[1]))


def _with_adds(graph: Graph, items: list[Fused]) -> list[Fused]:
    """Let products be added to what they are added to in place, where nobody else wants it afterwards."""
    reads: dict[int, list[int]] = {seen_through(graph, graph.output): [len(items)]}
    for at, item in enumerate(items):
        for i in item.inputs:
            reads.setdefault(i, []).append(at)
    made = {item.result: (at, item) for at, item in enumerate(items)}
    parts = _parts(items)
    dropped: set[int] = set()
    for at, item in enumerate(items):
        if not (isinstance(item, Single) and item.node.op == "add"):
            continue
        for product, other in (item.inputs, item.inputs[::-1]):
            source_at, source = made.get(product, (-1, None))
            last = max(reads[other])
            if (
                isinstance(source, Linear)
                and len(source.nodes) == 1
                and source.add is None
                and reads[product] == [at]
                and last == at
                and product != other
                and other in made
                and other not in parts
            ):
                dropped.add(source_at)
                items[at] = replace(source, result=item.result, add=other)
                made[item.result] = (at, items[at])
                break
    return [item for at, item in enumerate(items) if at not in dropped]


def _parts(items: Iterable[Fused]) -> set[int]:
    """Values that are parts of rows of several."""
    merged = (item for item in items if isinstance(item, Linear) and not item.swiglu)
    return {node.index for item in merged if len(item.nodes) > 1 for node in item.nodes}
