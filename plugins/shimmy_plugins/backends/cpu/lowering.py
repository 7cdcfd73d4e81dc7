"""What a kernel's ``lower`` function works with: the graph's tensors, weights, memory, and the program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shimmy.engine.plan import Limits
from shimmy.graph.builder import Graph, Node
from shimmy_plugins.backends.cpu.jit import Target
from shimmy_plugins.backends.cpu.kernel import FieldValue, Kernel
from shimmy_plugins.backends.cpu.kvcache import KVCache
from shimmy_plugins.backends.cpu.loading import PackedWeights
from shimmy_plugins.backends.cpu.lora import ExpertEntries, LoraState
from shimmy_plugins.backends.cpu.memory import aligned_floats, round_up
from shimmy_plugins.backends.cpu.program import Buffers, Program, Tensor
from shimmy_plugins.backends.cpu.step import StepInputs

if TYPE_CHECKING:
    from shimmy_plugins.backends.cpu.attention_work import AttentionWork
    from shimmy_plugins.backends.cpu.kernels.quantize import QuantizedRows
    from shimmy_plugins.backends.cpu.kernels.routing import Gathered, Routing

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(slots=True)
class Ports:
    """Where a segment's inputs are put, and where its result lies when it has run."""

    inputs: list[Tensor] = field(default_factory=list)
    result: Tensor | None = None


#: What calls can read and write.
Memory: TypeAlias = (
    "Tensor | KVCache | AttentionWork | QuantizedRows | Routing | Gathered | ExpertEntries | F32"
)


class Lowering:
    """The state of compiling one graph for a processor."""

    def __init__(
        self,
        graph: Graph,
        weights: PackedWeights,
        limits: Limits,
        target: Target,
        cache: KVCache | None = None,
        lora: LoraState | None = None,
    ) -> None:
        self.limits = limits
        self.target = target
        # In F32 prompts would take about twice as long: it is for those who ask.
        self.precision = "f32" if limits.precision == "f32" else "int8"
        """Of matrices stored as codes; others compute in F32."""
        self.rounds = False
        """Whether there are such matrices, and their inputs are rounded to 8 bits."""
        self.quantized: dict[int, QuantizedRows] = {}
        """By blocks of columns."""
        self.routings: dict[tuple[int, int], Routing] = {}
        """By experts used and all."""
        self.step = StepInputs(limits)
        self.cache = cache or KVCache(limits.kv_type)
        self.lora = lora
        """None in a program that knows no adapters."""
        self.weights = weights
        self.program = Program()
        self.buffers = Buffers(limits.step_tokens)
        self.fallbacks: list[str] = []
        self.ports: list[Ports] = []
        """By segment, if the graph consists of segments."""
        self._graph = graph
        self._tensors: dict[int, Tensor] = {}
        self._last_reader = {i: node.index for node in graph.nodes for i in node.inputs}
        self._last_reader[graph.output] = -1  # is read after the last node
        self._holders: Counter[int] = Counter()
        self._scratch: dict[int, F32] = {}
        self._zeros: dict[int, F32] = {}

    def node(self, index: int) -> Node:
        """The node of a value."""
        return self._graph.nodes[index]

    def shape(self, index: int) -> tuple[int, ...]:
        """One row's shape of a node's result."""
        return self._graph.nodes[index].shape

    def result(self) -> Tensor:
        """The graph's output, once all nodes are lowered."""
        return self._tensors[self._graph.output]

    def tensor(self, index: int) -> Tensor:
        """The result of a node that is lowered already."""
        return self._tensors[index]

    def input(self, node: Node, index: int = 0) -> Tensor:
        """The activations a node reads."""
        return self._tensors[node.inputs[index]]

    def output(self, node: Node, rows: I64 | None = None) -> Tensor:
        """Memory for a node's result, with as many rows as its first input unless told otherwise."""
        if rows is None:
            rows = self.input(node).rows if node.inputs else self.step.rows
        return self._hold(node, self.buffers.take(prod(node.shape), rows))

    def alias(self, node: Node, tensor: Tensor | None = None) -> None:
        """The node's result is its input, seen in another shape, or ``tensor``, a part of it."""
        self._hold(node, tensor or self.input(node))

    def release_inputs(self, node: Node) -> None:
        """Let the memory of activations that ``node`` was the last to read be used again."""
        for index in set(node.inputs):
            if self._last_reader[index] == node.index:
                tensor = self._tensors[index]
                self._holders[tensor.address] -= 1
                if not self._holders[tensor.address]:
                    self.buffers.give_back(tensor)

    def scratch(self, size: int) -> tuple[F32, int]:
        """Memory of ``size`` floats for each thread, whose content no call leaves to another; its stride."""
        if size not in self._scratch:
            self._scratch[size] = aligned_floats(self.limits.threads, size)
        return self._scratch[size], size

    def zeros(self, size: int) -> F32:
        """Zeros that nobody writes to."""
        if size not in self._zeros:
            self._zeros[size] = aligned_floats(size)
        return self._zeros[size]

    def bias(self, node: Node) -> F32:
        """The vector a node adds last; zeros where it has none."""
        if "bias" in node.weights:
            return self.weights.vector(node.weights["bias"])
        return self.zeros(round_up(prod(node.shape)))

    def call(
        self,
        kernel: Kernel,
        *,
        reads: Iterable[Memory],
        writes: Iterable[Memory],
        **fields: FieldValue,
    ) -> None:
        """Append a call to the program; ``reads`` and ``writes`` decide where threads must meet."""
        self.program.call(
            kernel, fields, reads=[_identity(x) for x in reads], writes=[_identity(x) for x in writes]
        )

    def _hold(self, node: Node, tensor: Tensor) -> Tensor:
        self._tensors[node.index] = tensor
        self._holders[tensor.address] += 1
        return tensor


def _identity(memory: Memory) -> int:
    return memory.address if isinstance(memory, Tensor) else id(memory)
