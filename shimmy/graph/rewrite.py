"""What rewrites of graphs share: a copy, in which something else may take a node's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shimmy.graph.builder import Graph, Node, Value


def rewritten(graph: Graph, rewrite: Callable[[Graph, Node, Sequence[Value]], Value]) -> Graph:
    """A new graph: ``rewrite(result, node, inputs)`` records there what takes the place of each node."""
    result = Graph(graph.tensors, graph.ops, graph.scaling)
    values: list[Value] = []
    for node in graph.nodes:
        values.append(rewrite(result, node, [values[i] for i in node.inputs]))
    result.output = values[graph.output].index
    return result


def late_values(graph: Graph) -> set[int]:
    """Values that have a row only for each of those whose logits are wanted."""
    late: set[int] = set()
    for node in graph.nodes:
        if node.op == "last" or node.attrs.get("late") or late.intersection(node.inputs):
            late.add(node.index)
    return late


def copied(result: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    """The node itself, on other inputs."""
    return result.op(node.op, *inputs, weights=node.weights, label=node.label, **node.attrs)
