"""Ops that an engine has no kernel for, rewritten into older ones where they say how."""

from __future__ import annotations

from collections.abc import Container, Sequence

from shimmy.graph.builder import Graph, Node, Value
from shimmy.graph.rewrite import copied, rewritten


def expand(graph: Graph, known: Container[str]) -> Graph:
    """The graph with ops that are not ``known`` rewritten, as far as they say how."""

    def older(result: Graph, node: Node, inputs: Sequence[Value]) -> Value:
        how = graph.ops[node.op].expand
        if how is None or node.op in known:
            return copied(result, node, inputs)
        return how(result, inputs, node.weights, node.attrs)

    while any(graph.ops[node.op].expand and node.op not in known for node in graph.nodes):
        graph = rewritten(graph, older)
    return graph
