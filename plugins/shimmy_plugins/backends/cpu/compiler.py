"""From graph to program: each node becomes calls of kernels, or runs by its NumPy definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from shimmy.engine.plan import Limits
from shimmy.errors import GraphError
from shimmy.gguf.weights import Weights
from shimmy.graph.builder import Graph, Node
from shimmy.graph.evaluate import evaluator
from shimmy.graph.lora import with_lora
from shimmy_plugins.backends.cpu.jit import Target
from shimmy_plugins.backends.cpu.kernels import (
    attention,
    elementwise,
    embed,
    expert_linear,
    expert_sum,
    last,
    layer_norm,
    linear,
    lora,
    lora_experts,
    rms_norm,
    rope,
    slices,
    top_experts,
)
from shimmy_plugins.backends.cpu.loading import PackedWeights
from shimmy_plugins.backends.cpu.lora import LoraState
from shimmy_plugins.backends.cpu.lowering import Lowering, Ports

Lower: TypeAlias = Callable[[Lowering, Node], None]


def _heads(low: Lowering, node: Node) -> None:
    """A view: heads lie side by side in a row already."""
    low.alias(node)


def _lora(low: Lowering, node: Node) -> None:
    """Behind a product of experts, the third input is which of them were chosen."""
    (lora_experts if len(node.inputs) > 2 else lora).lower(low, node)


def _enter(low: Lowering, node: Node) -> None:
    """Memory for what a segment is given."""
    number: int = node.attrs["number"]
    if number == len(low.ports):
        low.ports.append(Ports())
    rows = low.step.output_rows if node.attrs["late"] else low.step.rows
    low.ports[number].inputs.append(low.output(node, rows))


def _leave(low: Lowering, node: Node) -> None:
    """The result is read before another segment runs, which may use its memory."""
    number: int = node.attrs["number"]
    if number == len(low.ports):
        low.ports.append(Ports())
    low.ports[number].result = low.input(node)
    low.program.end_part()


#: How each op becomes calls; an op that is not here is expanded or falls back.
LOWER: Mapping[str, Lower] = {
    "embed": embed.lower,
    "position_embed": embed.lower,
    "linear": linear.lower,
    "rms_norm": rms_norm.lower,
    "layer_norm": layer_norm.lower,
    "heads": _heads,
    "slice": slices.lower,
    "rope": rope.lower,
    "attention": attention.lower,
    **dict.fromkeys(elementwise.OPS, elementwise.lower),
    "top_experts": top_experts.lower,
    "expert_linear": expert_linear.lower,
    "expert_sum": expert_sum.lower,
    "last": last.lower,
    "lora": _lora,
    "enter": _enter,
    "leave": _leave,
}


#: Ops whose weight is a matrix in a run layout; the others' weights are vectors.
MATRIX_OPS = ("embed", "position_embed", "linear", "expert_linear")


def matrices(graph: Graph) -> list[str]:
    """Names of the tensors to pack, each once."""
    return list(dict.fromkeys(n.weights["weight"] for n in graph.nodes if n.op in MATRIX_OPS))


def lower(
    graph: Graph,
    weights: Weights,
    packed: PackedWeights,
    limits: Limits,
    target: Target,
    base: Lowering | None = None,
) -> Lowering:
    """The program of a graph whose ops are expanded and whose weights are packed already.

    With ``base``, the program of the same graph without adapters, it is one with them, on the same cache.

    Raises:
        GraphError: an op with state has no kernel.
    """
    if base is None:
        low = Lowering(graph, packed, limits, target)
    else:
        graph = with_lora(graph)
        low = Lowering(graph, packed, limits, target, base.cache, LoraState(limits))
    for node in graph.nodes:
        if node.op in LOWER:
            LOWER[node.op](low, node)
        else:
            _fall_back(low, graph, weights, node)
        low.release_inputs(node)
    return low


def _fall_back(low: Lowering, graph: Graph, weights: Weights, node: Node) -> None:
    """Run a node by its NumPy definition, between two stretches of the table."""
    op = graph.ops[node.op]
    if op.stateful:
        raise GraphError(
            f"{node.label}: the cpu backend has no kernel for op {node.op!r}, which needs the KV cache.",
            hint="Choose another backend, for example engine_backend = 'reference'.",
        )
    run = evaluator(op, node)
    arrays = {
        role: weights.dequantize(name).reshape(weights.shape(name)) for role, name in node.weights.items()
    }
    inputs = [(low.tensor(i), low.shape(i)) for i in node.inputs]
    y = low.output(node)

    def function() -> None:
        rows = [tensor.values().reshape(-1, *shape) for tensor, shape in inputs]
        y.values()[...] = run(rows, arrays, {"batch": low.step.batch}).reshape(-1, y.width)

    low.program.function(function)
    low.fallbacks.append(node.label)
