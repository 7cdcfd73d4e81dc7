"""From fused computations to dispatches, for one phase of a step.

Rows that are generated have kernels that read each weight once for a few rows; rows of prompts have kernels
that multiply tiles. Which of them computes a row depends on its phase alone, and so do its bits. What both
phases do alike is here; products and attention are in ``generated.py`` and ``prompts.py``.

Values behind ``last`` have a row for each output of the step, the phase's from ``step_first_output`` on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Literal

from shimmy.engine.plan import Limits
from shimmy.errors import GraphError
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import Graph, Node
from shimmy.graph.offload import RunSegment
from shimmy.graph.rope import rope_frequencies
from shimmy_plugins.backends.wgpu import lora_calls
from shimmy_plugins.backends.wgpu.composer import Composer
from shimmy_plugins.backends.wgpu.device import Gpu, Slice
from shimmy_plugins.backends.wgpu.fallback import Fallback
from shimmy_plugins.backends.wgpu.fusion import Attention, Fused, Linear, Single, seen_through
from shimmy_plugins.backends.wgpu.kernel import Bound, Cost, Dispatch, Kernel, Size
from shimmy_plugins.backends.wgpu.kvcache import BLOCK_TOKENS, KVCache
from shimmy_plugins.backends.wgpu.layouts import AffineLayout
from shimmy_plugins.backends.wgpu.lora import LoraState
from shimmy_plugins.backends.wgpu.memory import FLOAT, Activations, Rows
from shimmy_plugins.backends.wgpu.ops.attention import AttentionShape
from shimmy_plugins.backends.wgpu.ops.elementwise import last
from shimmy_plugins.backends.wgpu.ops.embed import embed
from shimmy_plugins.backends.wgpu.ops.rope import Rotation, angle_table, rope
from shimmy_plugins.backends.wgpu.ops.row import row_op
from shimmy_plugins.backends.wgpu.sampling import GpuSampler
from shimmy_plugins.backends.wgpu.step import most_lora_words, most_words
from shimmy_plugins.backends.wgpu.weights import GpuMatrix, GpuWeights

#: Ops that lowering knows by name; beyond them there are row ops.
OPS = frozenset(("embed", "linear", "heads", "rope", "attention", "last"))

Precision = Literal["f32", "int8"]


def precision_of(limits: Limits) -> Precision:
    """The arithmetic of a plan."""
    return "int8" if limits.precision == "int8" else "f32"


class Shared:
    """What all programs of a plan work with."""

    def __init__(
        self,
        gpu: Gpu,
        composer: Composer,
        row_ops: Mapping[str, str],
        source: Weights,
        limits: Limits,
        vocabulary: int,
        segments: RunSegment | None = None,
    ) -> None:
        self.gpu = gpu
        self.composer = composer
        self.segments = segments
        """Who computes segments of the graph, where there are some."""
        self.row_ops = row_ops
        """Shaders of ops that compute a row from rows, by op."""
        self.source = source
        self.weights = GpuWeights(gpu, source, composer)
        self.limits = limits
        self.precision: Precision = precision_of(limits)
        self.cache = KVCache(gpu, limits.kv_type)
        self.outputs = limits.max_outputs or limits.max_sequences
        self.logits = gpu.buffer(self.outputs * vocabulary * FLOAT, "logits").whole()
        """F32, (outputs, vocabulary)."""
        self.chosen = gpu.buffer(self.outputs * FLOAT, "chosen tokens").whole()
        """i32: the tokens chosen for the outputs of the step before."""
        self.sampler = GpuSampler(gpu, composer, vocabulary, self.outputs, self.logits, self.chosen)
        self._angles: dict[tuple[object, ...], Slice] = {}
        self._activations: dict[str, Activations] = {}

    def activations(self, label: str) -> Activations:
        """Memory for the values of a phase's next program; in a step, only one of them runs."""
        memory = self._activations.setdefault(label, Activations(self.gpu, label))
        memory.restart()
        return memory

    def angles(self, node: Node) -> Slice:
        """The table of a rotation's cosines and sines, for all positions."""
        a = node.attrs
        key = (a["base"], a["dims"], a["scaling"], node.weights.get("factors"))
        if key not in self._angles:
            factors = None
            if "factors" in node.weights:
                factors = self.source.dequantize(node.weights["factors"]).ravel()
            table = angle_table(rope_frequencies(*key[:3], factors), self.limits.max_ctx)
            place = self.gpu.buffer(table.nbytes, "angles").whole()
            self.gpu.upload(place, table)
            self._angles[key] = place
        return self._angles[key]

    def computes(self, matrix: GpuMatrix) -> Precision:
        """The arithmetic of products with a matrix."""
        return self.precision if isinstance(matrix.layout, AffineLayout) else "f32"


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
        self._chosen_rows: set[int] = set()
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
        kinds: dict[int, set[type]] = {}
        for item in items:
            for i in item.inputs:
                kinds.setdefault(i, set()).add(type(item))
        for item in items:
            match item:
                case Linear():
                    self.linear(item)
                case Attention():
                    self.attention(item)
                case Single():
                    self._single(item.node, kinds.get(item.result, set()) == {Linear})
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
    def attention(self, item: Attention) -> None:
        """Attention, and what it writes to the cache."""

    @abstractmethod
    def forget(self, index: int) -> None:
        """A value is not read any more, nor what was made of it."""

    # -- values ---------------------------------------------------------------------------------

    def value(self, index: int) -> Rows:
        """Where a value lies that is computed already."""
        return self._values[index]

    def late(self, index: int) -> bool:
        """Whether a product of this value is one of those rows whose logits are wanted.

        Raises:
            GraphError: they do not lie among all rows, as kernels expect.
        """
        if index in self._late and index not in self._chosen_rows:
            label = self.graph.nodes[index].label
            raise GraphError(
                f"{label}: the wgpu backend multiplies no values computed behind 'last', but by an RMS norm.",
                hint="Choose another backend, for example engine_backend = 'cpu'.",
            )
        return index in self._late

    def new(self, node: Node, *, behind: Iterable[int]) -> Rows:
        """Memory for a node's value, which has the rows of those it is computed of."""
        late = not self._late.isdisjoint(behind)
        rows = self.shared.outputs if late else self.rows
        width = prod(node.shape)
        if node.index == self._shown and late:
            memory = self.shared.logits
        else:
            memory = self.memory.take(FLOAT * width * rows)
        if late:
            self._late.add(node.index)
        self._values[node.index] = Rows(memory, width, 0, width)
        return self._values[node.index]

    def result(self, item: Linear) -> Rows:
        """Where a product goes: to what it is added to, or to memory of its own."""
        node = self.graph.nodes[item.result]
        if item.add is not None:
            rows = self._values[item.result] = self.value(item.add)
            self.memory.hold(rows.memory)
            return rows
        if len(item.nodes) == 1 or item.swiglu:
            return self.new(node, behind=[item.x])
        width = sum(prod(n.shape) for n in item.nodes)
        whole = Rows(self.memory.take(FLOAT * width * self.rows), width, 0, width)
        self.keep_parts(item.nodes, whole)
        return whole

    def keep_parts(self, nodes: Sequence[Node], whole: Rows) -> None:
        """The values of nodes lie side by side in rows that were just taken."""
        at = 0
        for node in nodes:
            width = prod(node.shape)
            self._values[node.index] = whole.part(at, width)
            at += width
        for _ in nodes[1:]:
            self.memory.hold(whole.memory)

    # -- the program ----------------------------------------------------------------------------

    def call(
        self,
        label: str,
        kernels: Sequence[Kernel],
        bound: Iterable[Bound],
        rows: Sequence[int] = (),
        cost: Cost | None = None,
    ) -> None:
        """Append a dispatch; all kernels end with the binding of the step, but those with angles."""
        if not self.adapters:
            # While weights are loaded. With adapters, only what a step needs is compiled.
            for kernel in kernels:
                self.shared.gpu.prepare(kernel.source, kernel.label)
        self.program.append(Dispatch(label, tuple(kernels), tuple(rows), tuple(bound), cost))

    def matrix(self, item: Linear) -> GpuMatrix:
        """Its matrices, one below the other."""
        return self.shared.weights.matrix([node.weights["weight"] for node in item.nodes])

    def bias(self, item: Linear) -> list[Slice]:
        """What is added to a product: nothing, or one vector for all of its nodes."""
        names = [node.weights["bias"] for node in item.nodes if "bias" in node.weights]
        return [self.shared.weights.vectors(names)] if names else []

    def attention_shape(self, item: Attention) -> tuple[AttentionShape, list[Slice]]:
        """The sizes of attention, and the table of angles if it turns its queries and keys itself."""
        node, attrs = item.node, item.node.attrs
        (heads, head_dim), (kv_heads, _), (_, v_dim) = (self.graph.nodes[i].shape for i in node.inputs)
        self.shared.cache.add_layer(attrs["layer"], kv_heads, head_dim, v_dim)
        rotated = item.rope[0]
        q, k, v = (self.value(i).columns for i in item.inputs)
        shape = AttentionShape(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            v_dim=v_dim,
            scale=attrs["scale"],
            window=attrs["window"],
            softcap=attrs["softcap"],
            rope=rotation(rotated) if rotated else None,
            q=q,
            k=k,
            v=v,
            max_ctx=self.shared.limits.max_ctx,
        )
        return shape, [self.shared.angles(rotated)] if rotated else []

    def kv(self, item: Attention) -> list[Bound]:
        """Keys and values of a layer, wherever they are by then."""
        layer, cache = item.node.attrs["layer"], self.shared.cache
        return [lambda: cache.slices(layer)[0], lambda: cache.slices(layer)[1]]

    def _single(self, node: Node, only_products: bool) -> None:
        match node.op:
            case "embed":
                self._embed(node)
            case "last":
                self._last(node, only_products)
            case "rope":
                self._rope(node)
            case op if op in self.shared.row_ops:
                self._row(node)
            case _:
                self._fall_back(node)

    def _embed(self, node: Node) -> None:
        matrix = self.shared.weights.matrix([node.weights["weight"]])
        y = self.new(node, behind=())
        kernel = embed(self.shared.composer, self.shared.gpu, matrix.layout, matrix.columns)
        self.call(node.label, [kernel], [*matrix.slices, self.shared.chosen, y.memory, self.step])
        if self.adapters:
            lora_calls.embed(self, self.adapters, node, y)

    def _last(self, node: Node, only_products: bool) -> None:
        (x,) = node.inputs
        self._late.add(node.index)
        if only_products:
            # These pick the rows themselves.
            self._values[node.index] = self.value(x)
            self.memory.hold(self.value(x).memory)
            self._chosen_rows.add(node.index)
            return
        y = self.new(node, behind=[node.index])
        kernel = last(self.shared.composer, self.shared.gpu, prod(node.shape), x=self.value(x).columns)
        self.call(node.label, [kernel], [self.value(x).memory, y.memory, self.step])

    def _rope(self, node: Node) -> None:
        heads, head_dim = node.shape
        x, y = self.value(node.inputs[0]), self.new(node, behind=node.inputs)
        kernel = rope(self.shared.composer, rotation(node), heads, head_dim, x.columns, y.columns)
        self.call(node.label, [kernel], [x.memory, y.memory, self.step, self.shared.angles(node)])

    def _row(self, node: Node) -> None:
        inputs = [self.value(i) for i in node.inputs]
        y = self.new(node, behind=node.inputs)
        kernel = row_op(
            self.shared.composer,
            self.shared.gpu,
            self.shared.row_ops[node.op],
            inputs=[x.columns for x in inputs],
            weights=list(node.weights),
            width=y.width,
            attrs=node.attrs,
            parts=prod(node.shape[:-1]),
            late=not self._late.isdisjoint(node.inputs),
        )
        weights = [self.shared.weights.vector(name) for name in node.weights.values()]
        self.call(node.label, [kernel], [*(x.memory for x in inputs), *weights, y.memory, self.step])

    def _fall_back(self, node: Node) -> None:
        """Run a node by its NumPy definition, or a segment, between two stretches of the program."""
        op = self.graph.ops[node.op]
        if op.stateful:
            raise GraphError(
                f"{node.label}: the wgpu backend has no kernel for op {node.op!r}, which needs the KV cache.",
                hint="Choose another backend, for example engine_backend = 'cpu'.",
            )
        late = not self._late.isdisjoint(node.inputs)
        # Values split into heads are seen through, but not by a definition.
        shapes = [self.graph.nodes[i].shape for i in self.graph.nodes[node.index].inputs]
        inputs = [(self.value(i), shape) for i, shape in zip(node.inputs, shapes, strict=True)]
        y = self.new(node, behind=node.inputs)
        shared = self.shared
        self.program.append(
            Fallback.of(shared.gpu, op, node, shared.source, inputs, y, late=late, segments=shared.segments)
        )


def rotation(node: Node) -> Rotation:
    """What a node's rotation does to a head."""
    return Rotation(node.attrs["dims"], node.attrs["style"])
