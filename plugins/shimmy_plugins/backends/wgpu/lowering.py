"""From fused computations to dispatches, for one phase of a step.

Rows that are generated have kernels that read each weight once for a few rows; rows of prompts have kernels
that multiply tiles. Which of them computes a row depends on its phase alone, and so do its bits. What both
phases do alike is here and in ``singles.py``; products and attention are in ``generated.py`` and
``prompts.py``, products of experts in ``experts.py``.

Values behind ``last`` have a row for each output of the step, the phase's from ``step_first_output`` on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod

from shimmy.graph.builder import Graph, Node
from shimmy_plugins.backends.wgpu import singles
from shimmy_plugins.backends.wgpu.device import Slice
from shimmy_plugins.backends.wgpu.fallback import Fallback
from shimmy_plugins.backends.wgpu.fused import Attention, Experts, Fused, Linear, Single, View
from shimmy_plugins.backends.wgpu.fusion import seen_through
from shimmy_plugins.backends.wgpu.kernel import Bound, Cost, Dispatch, Kernel, Size
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS
from shimmy_plugins.backends.wgpu.lora import LoraState
from shimmy_plugins.backends.wgpu.memory import FLOAT, Rows
from shimmy_plugins.backends.wgpu.ops.attention import AttentionShape
from shimmy_plugins.backends.wgpu.ops.norm import Norm
from shimmy_plugins.backends.wgpu.ops.rope import Rotation
from shimmy_plugins.backends.wgpu.shared import Shared
from shimmy_plugins.backends.wgpu.step import most_lora_words, most_words
from shimmy_plugins.backends.wgpu.weights import GpuMatrix


class Lowering(ABC):
    """The program of a phase while it is made: one computation at a time, in order."""

    def __init__(self, shared: Shared, graph: Graph, rows: int, adapters: LoraState | None = None) -> None:
        """``adapters``: what those add to products and embeddings is added."""
        self.shared = shared
        self.graph = graph
        self.adapters = adapters
        words = most_words(shared.limits, rows, BLOCK_TOKENS) + (most_lora_words(rows) if adapters else 0)
        self.step = shared.gpu.buffer(words * FLOAT, f"numbers of {self.label}").whole()
        """The phase's numbers; see step.py."""
        self.rows = rows
        self.memory = shared.activations(self.label)
        self.program: list[Dispatch | Fallback] = []
        self._shown = seen_through(graph, graph.output)
        self._values: dict[int, Rows] = {}
        self._late: set[int] = set()
        """Values behind ``last``."""
        self._picked: set[int] = set()
        """Values behind ``last`` that lie among all rows still."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What its rows are."""

    def lower(self, items: Sequence[Fused]) -> None:
        """Make dispatches of all computations.

        Raises:
            GraphError: an op with state has no kernel here.
        """
        readers = Counter(i for item in items for i in set(item.inputs))
        readers[self._shown] += 1
        # Products pick rows themselves.
        picking = Counter(item.x for item in items if isinstance(item, Linear) and item.x != item.add)
        for item in items:
            match item:
                case Linear():
                    self.linear(item)
                case Experts():
                    self.experts(item)
                case Attention():
                    self.attention(item)
                case View():
                    self._view(item)
                case Single():
                    singles.lower(self, item, picked=picking[item.result] == readers[item.result])
            for i in set(item.inputs):
                readers[i] -= 1
                if not readers[i]:
                    self.memory.release(self._values[i].memory)
                    self.forget(i)

    def output(self, size: Size) -> list[Slice]:
        """The graph's output for a step of this size; nothing if it lies among the logits of all phases."""
        rows = self._values[self._shown]
        if rows.memory == self.shared.logits:
            return []
        return [Slice(rows.memory.buffer, 0, size.rows * rows.width * FLOAT)]

    @abstractmethod
    def linear(self, item: Linear) -> None:
        """A product."""

    @abstractmethod
    def experts(self, item: Experts) -> None:
        """Products with matrices of some experts."""

    @abstractmethod
    def attention(self, item: Attention) -> None:
        """Attention, and what it writes to the cache."""

    @abstractmethod
    def forget(self, index: int) -> None:
        """A value is not read any more, nor what was made of it."""

    # -- values ---------------------------------------------------------------------------------

    def value(self, index: int) -> Rows:
        """Where a value lies that is computed already."""
        return self._values[index]

    def late(self, *indices: int) -> bool:
        """Whether what is computed of these values has a row for each output of the step only."""
        return not self._late.isdisjoint(indices)

    def picked(self, index: int) -> bool:
        """Whether the rows of a late value lie among all rows, to be picked by the step's outputs."""
        return index in self._picked

    def new(self, node: Node, *, behind: Iterable[int]) -> Rows:
        """Memory for a node's value, which has the rows of those it is computed of."""
        return self._new(node, late=self.late(*behind))

    def new_late(self, node: Node) -> Rows:
        """The same, with a row for each output of the step."""
        return self._new(node, late=True)

    def _new(self, node: Node, *, late: bool) -> Rows:
        width = prod(node.shape)
        if node.index == self._shown and late:
            memory = self.shared.logits
        else:
            memory = self.memory.take(FLOAT * width * self.count(late=late))
        return self.keep(node.index, Rows(memory, width, 0, width), late=late)

    def keep(self, index: int, rows: Rows, *, late: bool) -> Rows:
        """A value lies there."""
        if late:
            self._late.add(index)
        self._values[index] = rows
        return rows

    def keep_picked(self, index: int, x: int) -> None:
        """A value is rows of another, which whoever reads it picks."""
        self.memory.hold(self.value(x).memory)
        self.keep(index, self.value(x), late=True)
        self._picked.add(index)

    def count(self, *, late: bool) -> int:
        """Most rows of a value."""
        return self.shared.outputs if late else self.rows

    def result(self, item: Linear) -> Rows:
        """Where a product goes: to what it is added to, or to memory of its own."""
        node = self.graph.nodes[item.result]
        if item.add is not None:
            self.memory.hold(self.value(item.add).memory)
            return self.keep(node.index, self.value(item.add), late=self.late(item.add))
        if len(item.nodes) == 1 or item.gated:
            return self.new(node, behind=[item.x])
        late = self.late(item.x)
        width = sum(prod(n.shape) for n in item.nodes)
        whole = Rows(self.memory.take(FLOAT * width * self.count(late=late)), width, 0, width)
        at = 0
        for part in item.nodes:
            self.keep(part.index, whole.part(at, prod(part.shape)), late=late)
            at += prod(part.shape)
        for _ in item.nodes[1:]:
            self.memory.hold(whole.memory)
        return whole

    def _view(self, item: View) -> None:
        (x,) = item.inputs
        start, size = item.node.attrs["start"], item.node.attrs["size"]
        self.memory.hold(self.value(x).memory)
        self.keep(item.result, self.value(x).part(start, size), late=self.late(x))

    # -- the program ----------------------------------------------------------------------------

    def call(
        self,
        label: str,
        kernels: Sequence[Kernel],
        bound: Iterable[Bound],
        rows: Sequence[int] = (),
        cost: Cost | None = None,
    ) -> None:
        """Append a dispatch of kernels that have the same bindings; see :class:`.kernel.Dispatch`."""
        if not self.adapters:
            # While weights are loaded. With adapters, only what a step needs is compiled.
            for kernel in kernels:
                self.shared.gpu.prepare(kernel.source, kernel.label)
        self.program.append(Dispatch(label, tuple(kernels), tuple(rows), tuple(bound), cost))

    def matrices(self, item: Linear) -> tuple[GpuMatrix, ...]:
        """What it multiplies with: its tensors, one below the other, or pieces of a large one."""
        names = [node.weights["weight"] for node in item.nodes]
        weights = self.shared.weights
        return (weights.matrix(names),) if len(names) > 1 else weights.pieces(names[0])

    def bias(self, item: Linear) -> list[Slice]:
        """What is added to a product: nothing, or one vector for all of its nodes."""
        names = [node.weights["bias"] for node in item.nodes if "bias" in node.weights]
        return [self.shared.weights.vectors(names)] if names else []

    def norm(self, item: Linear | Experts) -> tuple[Norm | None, list[Slice]]:
        """What is done to its input first, and what that needs."""
        return (Norm.of(item.norm), [self.shared.norm(item.norm)]) if item.norm else (None, [])

    def attention_shape(
        self, item: Attention, inputs: Sequence[Rows], norms: Sequence[Node | None] = (None, None)
    ) -> tuple[AttentionShape, list[Slice]]:
        """The sizes of attention, and the table of angles if it turns its queries and keys itself.

        ``inputs``: where q, k and v lie. ``norms``: those of q and k that it computes itself.
        """
        node, attrs = item.node, item.node.attrs
        (heads, head_dim), (kv_heads, _), (_, v_dim) = (self.graph.nodes[i].shape for i in node.inputs)
        self.shared.cache.add_layer(attrs["layer"], kv_heads, head_dim, v_dim)
        q, k, v = (x.columns for x in inputs)
        q_norm, k_norm = (norm.attrs["eps"] if norm else None for norm in norms)
        shape = AttentionShape(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            v_dim=v_dim,
            scale=attrs["scale"],
            window=attrs["window"],
            softcap=attrs["softcap"],
            q_norm=q_norm,
            k_norm=k_norm,
            rope=Rotation.of(item.rope) if item.rope else None,
            q=q,
            k=k,
            v=v,
            max_ctx=self.shared.limits.max_ctx,
        )
        return shape, [self.shared.angles(item.rope)] if item.rope else []

    def kv(self, item: Attention) -> list[Bound]:
        """Keys and values of a layer, wherever they are by then."""
        layer, cache = item.node.attrs["layer"], self.shared.cache
        return [lambda: cache.slices(layer)[0], lambda: cache.slices(layer)[1]]
