"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): the rewrite that lets every architecture have them.

A node ``lora`` behind each ``linear``, ``embed`` and ``expert_linear`` adds, for rows that have an adapter,

    y += s * (scale * B(A x) + offset)

with the factor s of the row's entry in the batch; each expert has an A and a B of its own. The weights of
the base stay as they are, and shared.
Adapters come and go while a plan runs: nodes name their target by label, plans hold the terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shimmy.graph.builder import Graph, Node, Value
from shimmy.graph.rewrite import copied, late_values, rewritten

if TYPE_CHECKING:
    from shimmy.graph.batch import Batch

F32 = NDArray[np.float32]

#: Ops whose results adapters may change.
TARGETS = ("linear", "embed", "expert_linear")


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """What an adapter adds to the result of one node. Weights are float32 or float16, sums F32."""

    a: NDArray[Any] | None = None
    """(rank, in) of a linear node, (vocabulary, rank) of an embedding, where a token picks a row;
    None: B takes x itself. Of experts (experts, rank, in)."""
    b: NDArray[Any] | None = None
    """(out, rank); None: A gives the result itself, or there is only an offset. Of experts, which have both,
    (experts, out, rank)."""
    scale: float = 1.0
    offset: F32 | None = None
    """(out,)."""

    @property
    def rank(self) -> int:
        """Numbers between A and B; 0 where one of them is not there."""
        return 0 if self.a is None or self.b is None else int(self.b.shape[-1])

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in (self.a, self.b, self.offset) if array is not None)

    def added(self, x: F32) -> F32:
        """scale * B(A x) + offset of a linear node, (out,), or (1,) if that is zero."""
        added = np.zeros(1, np.float32) if self.offset is None else self.offset
        if self.b is None:
            return added
        middle = x if self.a is None else self.a.astype(np.float32) @ x
        product: F32 = np.dot(self.b.astype(np.float32), middle)
        return np.float32(self.scale) * product + added

    def of_expert(self, number: int) -> Term:
        """What it adds to the product of one of the experts."""
        assert self.a is not None
        assert self.b is not None
        return replace(self, a=self.a[number], b=self.b[number])

    def added_to_experts(self, x: F32, chosen: F32) -> F32:
        """The same of experts that a row has chosen, (used, out); x is (in,), or (used, in)."""
        numbers = chosen[0].astype(int)
        rows = np.broadcast_to(x, (len(numbers), x.shape[-1]))
        return np.stack([self.of_expert(n).added(row) for n, row in zip(numbers, rows, strict=True)])

    def added_to_embedding(self, token: int) -> F32:
        """The same of an embedding, where A x is a row of A."""
        assert self.a is not None
        row: F32 = self.a[token].astype(np.float32)
        if self.b is None:
            added = np.zeros(1, np.float32) if self.offset is None else self.offset
            return np.float32(self.scale) * row + added
        return replace(self, a=None).added(row)


#: An adapter, by the labels of the nodes it changes.
Terms = Mapping[str, Term]


def target_labels(graph: Graph) -> dict[str, Node]:
    """The nodes that adapters may change, by label."""
    return {node.label: node for node in graph.nodes if node.op in TARGETS}


def with_lora(graph: Graph) -> Graph:
    """The graph with a ``lora`` node behind every node that adapters may change."""
    late = late_values(graph)

    def adapted(result: Graph, node: Node, inputs: Sequence[Value]) -> Value:
        value = copied(result, node, inputs)
        if node.op not in TARGETS:
            return value
        label = f"{node.label}.lora"
        return result.op("lora", value, *inputs, label=label, target=node.label, late=node.index in late)

    return rewritten(graph, adapted)


def lora(
    y: F32,
    x: F32 | None = None,
    chosen: F32 | None = None,
    *,
    target: str,
    late: bool,
    batch: Batch,
    adapters: Mapping[int, Terms],
) -> F32:
    """The op's NumPy definition; ``late``: y has only the rows whose logits are wanted."""
    if batch.lora is None:
        return y
    y = y.copy()
    entries = zip(batch.lora.rows, batch.lora.adapters, batch.lora.scales, strict=True)
    for row, adapter, scale in entries:
        term = adapters[int(adapter)].get(target)
        at = int(np.searchsorted(batch.outputs, row)) if late else int(row)
        if term is None or (late and not (at < len(batch.outputs) and batch.outputs[at] == row)):
            continue
        if x is None:
            added = term.added_to_embedding(batch.tokens[row])
        else:
            added = term.added(x[at]) if chosen is None else term.added_to_experts(x[at], chosen[at])
        y[at] += scale * added
    return y
