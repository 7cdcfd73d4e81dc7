"""What is computed together, as ``fusion.py`` finds it and ``lowering.py`` makes dispatches of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from shimmy.graph.builder import Node
from shimmy_plugins.backends.wgpu.ops.ending import GATED, Ending

#: What a product ends with besides a sum.
End: TypeAlias = Literal["gelu", "swiglu", "geglu"]


def together(nodes: Sequence[Node]) -> str:
    """``blk.0.attn_q+attn_k+attn_v``."""
    first, *others = (node.label for node in nodes)
    return "+".join([first, *(label.rpartition(".")[2] for label in others)])


@dataclass(frozen=True, slots=True)
class Linear:
    """The product of one input with matrices that lie one below the other."""

    nodes: tuple[Node, ...]
    x: int
    """The value multiplied, or normed and multiplied."""
    result: int
    """The value computed; that of several nodes, a row of all of theirs, is the first one's."""
    norm: Node | None = None
    end: End | None = None
    """What becomes of the product; a gate is its first half, what it lets through the second."""
    add: int | None = None
    """A value nobody reads afterwards; the product is added to it in place."""
    total: Single | None = None
    """A normed value and what it is added to, if the product computes x itself; x is kept for others."""

    @property
    def inputs(self) -> tuple[int, ...]:
        x = self.total.inputs if self.total else (self.x,)
        return x if self.add is None else (*x, self.add)

    @property
    def ending(self) -> Ending:
        """What happens to the product."""
        return self.end or ("store" if self.add is None else "add")

    @property
    def gated(self) -> bool:
        return self.end in GATED

    @property
    def label(self) -> str:
        return together(self.nodes)


@dataclass(frozen=True, slots=True)
class Experts:
    """Products of one input with the matrices of the experts that were chosen for its row."""

    nodes: tuple[Node, ...]
    """One, or those of a gate and of what it lets through."""
    x: int
    """A row for all of them, or one for each; see :class:`Linear`."""
    chosen: int
    result: int
    norm: Node | None = None
    end: End | None = None
    choice: Single | None = None
    """What chooses, if that is done here, too; the choice is kept for others."""

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.x, self.chosen) if self.choice is None else (self.x, *self.choice.inputs)

    @property
    def ending(self) -> Ending:
        """What happens to the products."""
        return self.end or "store"

    @property
    def gated(self) -> bool:
        return self.end in GATED

    @property
    def label(self) -> str:
        return together(self.nodes)


@dataclass(frozen=True, slots=True)
class _OfNode:
    """What computes a node, whatever else."""

    node: Node

    @property
    def result(self) -> int:
        """The value computed."""
        return self.node.index

    @property
    def label(self) -> str:
        return self.node.label


@dataclass(frozen=True, slots=True)
class Attention(_OfNode):
    """Attention, with what is done to each head of its queries and keys, if only attention reads it."""

    inputs: tuple[int, int, int]
    """q, k and v, before all that."""
    rope: Node | None
    """How q and k are both turned; None: they are turned already, or never."""
    norms: tuple[Node | None, Node | None]
    """Of q and of k, before they are turned."""


@dataclass(frozen=True, slots=True)
class View(_OfNode):
    """Some columns of a value, which a slice takes: nothing is computed."""

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.node.inputs


@dataclass(frozen=True, slots=True)
class Single(_OfNode):
    """A node for itself, or one of :data:`~.sums.ADDING` with a value that is added to its result."""

    add: int | None = None
    total: int | None = None
    """The value computed, if it is not the node's."""

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.node.inputs if self.add is None else (*self.node.inputs, self.add)

    @property
    def result(self) -> int:
        return self.node.index if self.total is None else self.total


Fused: TypeAlias = Linear | Experts | Attention | View | Single
