"""Which nodes of a graph are computed together: a dispatch that waits for another costs 2 us on a fast card.

The rewrites know no architecture; they look at values and at who reads them:

- a norm that only products read becomes part of these (``Linear.norm``);
- products of one input become one, if their matrices can lie one below the other and whoever reads the
  results can read a part of a row (``Linear.nodes``);
- ``gelu`` of a product becomes its end, a gate that of two products or of the halves of one
  (``Linear.end``), an ``add`` that of the product it adds (``Linear.add``, in ``sums.py``);
- rotations and norms of heads that only attention reads become part of it;
- a slice is a view, where its readers can read a part of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

from shimmy.graph.builder import Graph, Node
from shimmy_plugins.backends.wgpu.fused import Attention, End, Experts, Fused, Linear, Single, View
from shimmy_plugins.backends.wgpu.ops.ending import GATED
from shimmy_plugins.backends.wgpu.ops.norm import NORMS
from shimmy_plugins.backends.wgpu.sums import with_sums

#: Says whether the matrices of these names can lie one below the other.
Mergeable: TypeAlias = Callable[[Sequence[str]], bool]

#: Ops that multiply whole rows, and norm them before if need be.
PRODUCTS = frozenset(("linear", "expert_linear"))


def fuse(graph: Graph, mergeable: Mergeable, *, experts_alone: bool = False) -> list[Fused]:
    """The graph's computations in order; ``heads`` is none, a value split into heads is the value.

    ``experts_alone``: products of experts begin and end with nothing else, so that adapters can add to them.
    """
    alone = ("expert_linear",) if experts_alone else ()
    return with_sums(_Rewriter(graph, mergeable, alone).rewritten(), seen_through(graph, graph.output))


def seen_through(graph: Graph, index: int) -> int:
    """The value that a node's result is a view of, all of it."""
    while graph.nodes[index].op == "heads":
        index = graph.nodes[index].inputs[0]
    return index


@dataclass(frozen=True, slots=True)
class _Ended:
    """A product that ends with something else than itself."""

    products: tuple[Node, ...]
    end: Node
    halves: tuple[Node, ...] = ()
    """Slices of the product, where it has both halves itself."""


class _Rewriter:
    def __init__(self, graph: Graph, mergeable: Mergeable, alone: Container[str]) -> None:
        self._nodes = graph.nodes
        self._alone = alone
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
        """All but the sums."""
        fused: list[Fused] = []
        done = {node.index for node in self._nodes if node.op == "heads" or self._normed_by_products(node)}
        for node in self._nodes:
            if node.op == "attention":
                done.update(self._attention(node)[1])
        for node in self._nodes:
            if node.index not in done:
                item, parts = self._start(node)
                done.update(parts)
                fused.append(item)
        return fused

    def _start(self, node: Node) -> tuple[Fused, Sequence[int]]:
        """What a node is computed in, and what else is."""
        if node.op == "attention":
            return self._attention(node)
        if node.op in PRODUCTS:
            return self._product(node)
        single = replace(node, inputs=self._inputs[node.index])
        if node.op == "slice" and self._read_in_parts(node):
            return View(single), ()
        return Single(single), ()

    def _product(self, node: Node) -> tuple[Fused, Sequence[int]]:
        source, norm = self._source(node)
        if ended := self._ended(node):
            nodes, result = ended.products, ended.end.index
            end: End | None = cast("End", ended.end.op)
            done = [n.index for n in (*nodes, *ended.halves, ended.end)]
        else:
            nodes, result, end = tuple(self._group(node)), node.index, None
            done = [n.index for n in nodes]
        if node.op == "linear":
            return Linear(nodes, source, result, norm, end), done
        return Experts(nodes, source, self._inputs[node.index][1], result, norm, end), done

    def _source(self, node: Node) -> tuple[int, Node | None]:
        """What a product multiplies, before the norm that it computes itself."""
        x = self._inputs[node.index][0]
        return (self._inputs[x][0], self._nodes[x]) if self._normed_by_products(self._nodes[x]) else (x, None)

    # -- who reads what ---------------------------------------------------------------------------

    def _only(self, node: Node, ops: Container[str]) -> bool:
        """Whether only such nodes read a value."""
        users = self._users[node.index]
        return bool(users) and node.index != self._shown and all(user.op in ops for user in users)

    def _reader(self, node: Node) -> Node | None:
        """The one node that reads a value."""
        users = self._users[node.index]
        return users[0] if len(users) == 1 and node.index != self._shown else None

    def _normed_by_products(self, node: Node) -> bool:
        return (
            node.op in NORMS
            and len(node.shape) == 1
            and self._only(node, PRODUCTS)
            and not any(user.op in self._alone for user in self._users[node.index])
            and all(self._inputs[user.index][0] == node.index for user in self._users[node.index])
        )

    def _read_in_parts(self, node: Node) -> bool:
        """Whether all who read a value can read a part of a row."""
        return node.index != self._shown and not any(
            user.op in PRODUCTS or user.op == "last" or self._normed_by_products(user)
            for user in self._users[node.index]
        )

    # -- products -----------------------------------------------------------------------------------

    def _ended(self, node: Node) -> _Ended | None:
        """What a product ends with, and the other product that it needs."""
        if node.op in self._alone:
            return None
        reader = self._reader(node)
        if reader is not None and reader.op == "gelu":
            return _Ended((node,), reader)
        if reader is not None and reader.op in GATED:
            return self._gate_of(reader)
        return self._halves_of(node) if node.op == "linear" else None

    def _gate_of(self, end: Node) -> _Ended | None:
        """Two products of one input, read by a gate alone."""
        both = [self._nodes[i] for i in self._inputs[end.index]]
        gate, up = both
        fits = gate.index != up.index and all(
            n.op in PRODUCTS
            and n.op == gate.op
            and self._inputs[n.index] == self._inputs[gate.index]
            and self._reader(n) is end
            and ("bias" in n.weights) == ("bias" in gate.weights)
            for n in both
        )
        if not fits or not self._mergeable([n.weights["weight"] for n in both]):
            return None
        return _Ended((gate, up), end)

    def _halves_of(self, node: Node) -> _Ended | None:
        """A product whose first half is a gate, and whose second half it lets through."""
        halves = sorted(self._users[node.index], key=lambda user: int(user.attrs.get("start", 0)))
        if node.index == self._shown or [half.op for half in halves] != ["slice", "slice"]:
            return None
        size = node.shape[0] // 2
        if [(h.attrs["start"], h.attrs["size"]) for h in halves] != [(0, size), (size, size)]:
            return None
        readers = [self._reader(half) for half in halves]
        end = readers[0]
        if end is None or end is not readers[1] or end.op not in GATED:
            return None
        in_order = self._inputs[end.index] == tuple(half.index for half in halves)
        whole = 2 * size == node.shape[0] and self._mergeable([node.weights["weight"]])
        return _Ended((node,), end, tuple(halves)) if in_order and whole else None

    def _group(self, node: Node) -> list[Node]:
        """The products computed with this one, in order."""
        if not self._groups(node):
            return [node]
        others = [
            n
            for n in self._users[self._inputs[node.index][0]]
            if n.index > node.index
            and self._groups(n)
            and self._ended(n) is None
            and ("bias" in n.weights) == ("bias" in node.weights)
            and self._mergeable([node.weights["weight"], n.weights["weight"]])
        ]
        return [node, *others]

    def _groups(self, node: Node) -> bool:
        """Whether a product may be a part of a row; one that is added is better added in place."""
        readers = self._users[node.index]
        return (
            node.op == "linear"
            and self._read_in_parts(node)
            and not any(user.op == "add" for user in readers)
        )

    # -- attention ----------------------------------------------------------------------------------

    def _attention(self, node: Node) -> tuple[Attention, list[int]]:
        """Attention, and the nodes that it computes besides."""
        q, k, v = self._inputs[node.index]
        parts: list[Node] = []
        rope = self._rotation_of(node, q, k)
        if rope:
            parts += [self._nodes[q], self._nodes[k]]
            q, k = self._inputs[q][0], self._inputs[k][0]
        norms: list[Node | None] = []
        inputs: list[int] = []
        for index, reader in ((q, parts[0] if rope else node), (k, parts[1] if rope else node)):
            norm = self._nodes[index]
            fits = norm.op == "rms_norm" and len(norm.shape) == 2 and self._reader(norm) is reader
            norms.append(norm if fits else None)
            inputs.append(self._inputs[index][0] if fits else index)
        done = [n.index for n in (*parts, *norms) if n]
        return Attention(node, (inputs[0], inputs[1], v), rope, (norms[0], norms[1])), done

    def _rotation_of(self, node: Node, q: int, k: int) -> Node | None:
        """How both are turned, if in one way and for this node alone."""
        ropes = [self._nodes[q], self._nodes[k]]
        alone = all(rope.op == "rope" and self._reader(rope) is node for rope in ropes)
        first, second = ((dict(rope.attrs), dict(rope.weights)) for rope in ropes)
        return ropes[0] if alone and first == second else None
