"""The graph builder: the only thing an architecture sees. No arrays, no device, no dtype.

A graph is recorded once per model and is symbolic in the number of tokens: shapes are those of
one row. Weights are names, checked against the file while recording. Labels (``blk.1.ffn_down``)
name a node in errors, numeric differences and profiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from shimmy.errors import GraphError, did_you_mean
from shimmy.graph.ops import CORE_OPS, Op
from shimmy.graph.scaling import PLAIN, RopeScaling
from shimmy.graph.shapes import Shape
from shimmy.graph.tensors import TensorTable

_BLOCK = re.compile(r"^blk\.\d+\.")
#: Tensors that a message names.
_MOST_NAMED = 3


class Architecture(Protocol):
    """A model architecture: parameters read from the metadata, and the graph they describe."""

    @property
    def params(self) -> type[Any]:
        """The dataclass that :func:`shimmy.gguf.params.read_params` fills."""
        ...

    def build(self, g: Graph, p: Any) -> Value:
        """Record the model; returns the logits, shape (vocabulary,)."""
        ...


@dataclass(frozen=True, slots=True)
class Node:
    """One recorded op. ``inputs`` are indices of earlier nodes, ``weights`` maps role -> tensor name."""

    index: int
    op: str
    label: str
    inputs: tuple[int, ...]
    weights: Mapping[str, str]
    attrs: Mapping[str, Any]
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The result of a node while recording; ``shape`` is that of one row."""

    graph: Graph
    index: int
    shape: Shape

    def __add__(self, other: Value) -> Value:
        return self.graph.op("add", self, other)


@dataclass(slots=True)
class Graph:
    """Records nodes in execution order; the last one recorded is not special, ``output`` is."""

    tensors: TensorTable
    ops: Mapping[str, Op] = field(default_factory=lambda: CORE_OPS)
    scaling: RopeScaling = PLAIN
    """Of every rotation that does not opt out; its tensor is in ``tensors``."""
    nodes: list[Node] = field(default_factory=list)
    output: int = -1
    _prefix: str = ""
    _labels: dict[str, int] = field(default_factory=dict)

    # -- what an architecture calls ---------------------------------------------------------

    @contextmanager
    def block(self, index: int) -> Iterator[None]:
        """Inside, tensor names and labels are those of layer ``index``: ``blk.<index>.``."""
        outer, self._prefix = self._prefix, f"blk.{index}."
        try:
            yield
        finally:
            self._prefix = outer

    def has(self, name: str) -> bool:
        """Whether the file has a tensor ``name``: for what models of one architecture have or not."""
        return f"{self._prefix}{name}.weight" in self.tensors

    def embed(self, name: str) -> Value:
        """Embedding row of each token: (columns of ``name``,)."""
        return self.op("embed", weights={"weight": self._tensor(name)}, label=name)

    def position_embed(self, name: str) -> Value:
        """Row of each token's position in its sequence: (columns of ``name``,)."""
        return self.op("position_embed", weights={"weight": self._tensor(name)}, label=name)

    def linear(self, x: Value, name: str, *, tied: str | None = None) -> Value:
        """x @ weight.T (+ bias when the file has one); ``tied`` names the matrix to use if missing."""
        return self.op("linear", x, weights=self._with_bias(name, instead=tied), label=name)

    def rms_norm(self, x: Value, name: str, *, eps: float) -> Value:
        """RMS norm over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467)."""
        return self.op("rms_norm", x, weights={"weight": self._tensor(name)}, label=name, eps=eps)

    def layer_norm(self, x: Value, name: str, *, eps: float) -> Value:
        """Layer norm over the last axis (+ bias when the file has one; Ba et al. 2016, arXiv:1607.06450)."""
        return self.op("layer_norm", x, weights=self._with_bias(name), label=name, eps=eps)

    def heads(self, x: Value, count: int) -> Value:
        """View a row as ``count`` heads."""
        return self.op("heads", x, heads=count)

    def slice(self, x: Value, start: int, size: int) -> Value:
        """``size`` numbers of a row, from ``start`` on."""
        return self.op("slice", x, start=start, size=size)

    def rope(self, x: Value, *, base: float, dims: int, style: str, scaled: bool = True) -> Value:
        """Rotary embedding (Su et al. 2021, arXiv:2104.09864) of the first ``dims`` of each head.

        ``style`` pairs dimensions: "interleaved" (2i, 2i+1) or "half" (i, i + dims/2). The model's
        rope scaling applies by itself; ``scaled=False`` is for layers that never look far.
        """
        if style not in ("interleaved", "half"):
            raise GraphError(f"{self._prefix}rope: style is {style!r}, not 'interleaved' or 'half'.")
        scaling = self.scaling if scaled else PLAIN
        weights = {"factors": scaling.factors} if scaling.factors else {}
        return self.op("rope", x, weights=weights, base=base, dims=dims, style=style, scaling=scaling)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        layer: int,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Value:
        """Causal attention over the sequence so far; appends k and v to the cache of ``layer``.

        ``window``: a token sees only so many, itself included. ``softcap``: scores become
        softcap * tanh(score / softcap) (Gemma 2, arXiv:2408.00118).
        """
        return self.op("attention", q, k, v, layer=layer, scale=scale, window=window, softcap=softcap)

    def gelu(self, x: Value) -> Value:
        """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
        return self.op("gelu", x)

    def geglu(self, gate: Value, up: Value) -> Value:
        """gelu(gate) * up (Shazeer 2020, arXiv:2002.05202)."""
        return self.op("geglu", gate, up)

    def swiglu(self, gate: Value, up: Value) -> Value:
        """silu(gate) * up (Shazeer 2020, arXiv:2002.05202)."""
        return self.op("swiglu", gate, up)

    def sigmoid_gate(self, x: Value, gate: Value) -> Value:
        """x * sigmoid(gate), where ``gate`` is one number for each row."""
        return self.op("sigmoid_gate", x, gate)

    def scale(self, x: Value, factor: float) -> Value:
        """x * factor."""
        return self.op("scale", x, factor=factor)

    def softcap(self, x: Value, cap: float) -> Value:
        """cap * tanh(x / cap): between -cap and cap (Gemma 2, arXiv:2408.00118)."""
        return self.op("softcap", x, cap=cap)

    def top_experts(self, logits: Value, used: int, *, normalize: bool, scale: float = 1.0) -> Value:
        """The ``used`` experts of the largest logits (Shazeer et al. 2017, arXiv:1701.06538): (2, used).

        Row 0 has their numbers, best first, row 1 their weights: softmax over all experts, divided by
        the sum of the chosen ones' if ``normalize``, times ``scale``.
        """
        return self.op("top_experts", logits, used=used, normalize=normalize, scale=scale)

    def expert_linear(self, x: Value, name: str, chosen: Value) -> Value:
        """x, or for each expert a row of its own, @ that one's weight.T: (used, rows).

        ``name`` has (experts, rows, columns); ``chosen`` is of :meth:`top_experts`.
        """
        tensor, choice = self._tensor(name), self.nodes[chosen.index]
        found, wanted = self.tensors.shape(tensor)[0], self.nodes[choice.inputs[0]].shape[0]
        if found != wanted:
            raise GraphError(f"{tensor!r} has {found} experts, but {wanted} are chosen from.")
        return self.op("expert_linear", x, chosen, weights={"weight": tensor}, label=name)

    def expert_sum(self, y: Value, chosen: Value) -> Value:
        """The sum of the chosen experts' rows times their weights: (used, n) -> (n,)."""
        return self.op("expert_sum", y, chosen)

    def last(self, x: Value) -> Value:
        """Keep only the rows whose logits are wanted."""
        return self.op("last", x)

    # -- what everything above is made of -----------------------------------------------------

    def op(
        self,
        name: str,
        *inputs: Value,
        weights: Mapping[str, str] | None = None,
        label: str | None = None,
        **attrs: Any,
    ) -> Value:
        """Record any op of the table, also a plugin's; ``weights`` maps role -> full tensor name."""
        if name not in self.ops:
            raise GraphError(f"no op is called {name!r}.", hint=did_you_mean(name, self.ops))
        label = self._unique(self._prefix + (label or name))
        weights = weights or {}
        shapes = {role: self.tensors.shape(tensor) for role, tensor in weights.items()}
        try:
            shape = self.ops[name].shape([v.shape for v in inputs], shapes, attrs)
        except GraphError as error:
            raise GraphError(f"{label}: {error.message}{self._origin(inputs)}") from None
        except (ValueError, IndexError, KeyError) as error:
            found = ", ".join(f"{weights[role]} {s}" for role, s in shapes.items())
            raise GraphError(f"{label}: tensors of unexpected shape ({found}).") from error
        node = Node(len(self.nodes), name, label, tuple(v.index for v in inputs), weights, attrs, shape)
        self.nodes.append(node)
        return Value(self, node.index, shape)

    def _origin(self, inputs: Iterable[Value]) -> str:
        """For people: the nearest tensors that made the inputs, one of which may have the wrong shape."""
        made: dict[str, Shape] = {}
        waiting = [value.index for value in inputs]
        # What the residual stream has come to, each layer has made.
        while waiting and len(made) < _MOST_NAMED:
            node = self.nodes[waiting.pop(0)]
            if tensor := node.weights.get("weight"):
                made[tensor] = self.tensors.shape(tensor)
            else:
                waiting += node.inputs
        found = ", ".join(f"{tensor!r} {shape}" for tensor, shape in made.items())
        return f" The input was made by {found}." if found else ""

    def _tensor(self, name: str, *, instead: str | None = None) -> str:
        full = f"{self._prefix}{name}.weight"
        if full in self.tensors:
            return full
        if instead and f"{instead}.weight" in self.tensors:
            return f"{instead}.weight"
        raise GraphError(
            f"the model file has no tensor {full!r}.", hint=did_you_mean(full, self.tensors.names())
        )

    def _with_bias(self, name: str, *, instead: str | None = None) -> dict[str, str]:
        bias = f"{self._prefix}{name}.bias"
        weights = {"weight": self._tensor(name, instead=instead)}
        return weights | {"bias": bias} if bias in self.tensors else weights

    def _unique(self, label: str) -> str:
        count = self._labels.get(label, 0)
        self._labels[label] = count + 1
        return label if count == 0 else f"{label}_{count}"


def record(
    architecture: Architecture,
    params: Any,
    tensors: TensorTable,
    ops: Mapping[str, Op] | None = None,
    scaling: RopeScaling = PLAIN,
) -> Graph:
    """Run an architecture's ``build`` and return the finished graph.

    ``scaling`` applies to the model's rotations; :func:`shimmy.graph.scaling.read_scaling` reads it.
    """
    graph = Graph(tensors, ops or CORE_OPS, scaling)
    logits = architecture.build(graph, params)
    graph.output = logits.index
    _check_biases(graph.nodes)
    return graph


def kind_of(node: Node) -> str:
    """What a node is in any layer, ``attn_q``; layer norms are all of one kind."""
    return node.op if node.op == "layer_norm" else _BLOCK.sub("", node.label)


def _check_biases(nodes: Iterable[Node]) -> None:
    """What is the same in all layers has a bias in all of them, or in none: else one is missing."""
    first: dict[str, Node] = {}
    for node in nodes:
        if "weight" not in node.weights:
            continue
        other = first.setdefault(kind_of(node), node)
        if ("bias" in node.weights) != ("bias" in other.weights):
            lacking, having = (node, other) if "bias" in other.weights else (other, node)
            raise GraphError(f"there is no '{lacking.label}.bias', but {having.weights['bias']!r}.")
