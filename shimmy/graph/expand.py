"""Ops that an engine has no kernel for, rewritten into older ones where they say how."""

from __future__ import annotations

from collections.abc import Callable, Container

from shimmy.graph.builder import Graph, Node, Value


def expand(graph: Graph, known: Container[str]) -> Graph:
    """The graph with ops that are not ``known`` rewritten, as far as they say how."""
    while any(_rewrite(graph, node, known) for node in graph.nodes):
        graph = _expand_once(graph, known)
    return graph


def _expand_once(graph: Graph, known: Container[str]) -> Graph:
    result = Graph(graph.tensors, graph.ops)
    values: list[Value] = []
    for node in graph.nodes:
        inputs = [values[i] for i in node.inputs]
        if rewrite := _rewrite(graph, node, known):
            values.append(rewrite(result, inputs, node.weights, node.attrs))
        else:
            copy = result.op(node.op, *inputs, weights=node.weights, label=node.label, **node.attrs)
            values.append(copy)
    result.output = values[graph.output].index
    return result


def _rewrite(graph: Graph, node: Node, known: Container[str]) -> Callable[..., Value] | None:
    return None if node.op in known else graph.ops[node.op].expand
