"""Nodes that are computed for themselves: a dispatch each, or, where there is no kernel, the processor."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from shimmy.errors import GraphError
from shimmy.graph.builder import Node
from shimmy_plugins.backends.wgpu import lora_calls
from shimmy_plugins.backends.wgpu.fallback import Fallback
from shimmy_plugins.backends.wgpu.fused import Single
from shimmy_plugins.backends.wgpu.memory import FLOAT, Rows
from shimmy_plugins.backends.wgpu.ops.elementwise import ELEMENTWISE, elementwise, last
from shimmy_plugins.backends.wgpu.ops.embed import embed
from shimmy_plugins.backends.wgpu.ops.experts import Choice, top_experts
from shimmy_plugins.backends.wgpu.ops.norm import NORMS, Norm, norm
from shimmy_plugins.backends.wgpu.ops.rope import Rotation, rope
from shimmy_plugins.backends.wgpu.ops.row import row_op

if TYPE_CHECKING:
    from shimmy_plugins.backends.wgpu.lowering import Lowering

#: Ops that lowering knows by name; beyond them there are row ops.
OPS = (
    frozenset(("embed", "position_embed", "linear", "heads", "rope", "attention", "last"))
    | {"top_experts", "expert_linear", "expert_sum"}
    | ELEMENTWISE
    | NORMS
)


def lower(low: Lowering, item: Single, *, picked: bool) -> None:
    """Append the dispatch of a node; ``picked``: whoever reads its result can pick rows.

    Raises:
        GraphError: an op with state has no kernel here.
    """
    node = item.node
    match node.op:
        case "embed" | "position_embed":
            _embed(low, node)
        case "last" if picked:
            low.keep_picked(node.index, node.inputs[0])
        case "last":
            _last(low, node)
        case "rope":
            _rope(low, node)
        case "top_experts":
            _top_experts(low, node)
        case op if op in NORMS:
            _norm(low, item)
        case op if op in ELEMENTWISE or op == "expert_sum":
            _elementwise(low, item)
        case op if op in low.shared.row_ops:
            _row(low, node)
        case _:
            _fall_back(low, node)


def _embed(low: Lowering, node: Node) -> None:
    y = low.new(node, behind=())
    pieces = low.shared.weights.pieces(node.weights["weight"])
    positions = node.op == "position_embed"
    chosen = [] if positions else [low.shared.chosen]
    for matrix in pieces:
        kernel = embed(
            low.shared.composer,
            low.shared.gpu,
            matrix.layout,
            matrix.columns,
            rows=range(matrix.first, matrix.first + matrix.rows) if len(pieces) > 1 else None,
            positions=positions,
        )
        low.call(node.label, [kernel], [*matrix.slices, *chosen, y.memory, low.step])
    if low.adapters and not positions:
        lora_calls.embed(low, low.adapters, node, y)


def _last(low: Lowering, node: Node) -> None:
    x = low.value(node.inputs[0])
    y = low.new_late(node)
    kernel = last(low.shared.composer, low.shared.gpu, prod(node.shape), x=x.columns)
    low.call(node.label, [kernel], [x.memory, y.memory, low.step])


def _rope(low: Lowering, node: Node) -> None:
    heads, head_dim = node.shape
    x, y = low.value(node.inputs[0]), low.new(node, behind=node.inputs)
    kernel = rope(low.shared.composer, Rotation.of(node), heads, head_dim, x.columns, y.columns)
    low.call(node.label, [kernel], [x.memory, y.memory, low.step, low.shared.angles(node)])


def _top_experts(low: Lowering, node: Node) -> None:
    logits, y = low.value(node.inputs[0]), low.new(node, behind=node.inputs)
    late = low.late(*node.inputs)
    choice = Choice.of(node, logits.columns)
    kernel = top_experts(low.shared.composer, low.shared.gpu, choice, late=late)
    low.call(node.label, [kernel], [logits.memory, y.memory, low.step])


def _norm(low: Lowering, item: Single) -> None:
    node = item.node
    x, *added = (low.value(i) for i in item.inputs)
    y = _result(low, item)
    kernel = norm(
        low.shared.composer,
        low.shared.gpu,
        node.shape[-1],
        Norm.of(node),
        prod(node.shape[:-1]),
        x=x.columns,
        added=added[0].columns if added else None,
        late=low.late(*item.inputs),
    )
    bound = [x.memory, *(a.memory for a in added), low.shared.norm(node), y.memory, low.step]
    low.call(node.label, [kernel], bound)


def normed(low: Lowering, node: Node, x: Rows, *, late: bool) -> Rows:
    """Rows or heads normed for one reader of them; their memory is to be released."""
    groups = prod(node.shape[:-1])
    y = low.memory.take(FLOAT * x.width * low.count(late=late))
    composer, gpu = low.shared.composer, low.shared.gpu
    kernel = norm(composer, gpu, node.shape[-1], Norm.of(node), groups, x=x.columns, late=late)
    low.call(node.label, [kernel], [x.memory, low.shared.norm(node), y, low.step])
    return Rows(y, x.width, 0, x.width)


def _elementwise(low: Lowering, item: Single) -> None:
    node = item.node
    inputs = [low.value(i) for i in item.inputs]
    y = _result(low, item)
    if node.op == "slice":
        inputs = [inputs[0].part(node.attrs["start"], node.attrs["size"])]
    kernel = elementwise(
        low.shared.composer,
        low.shared.gpu,
        node.op,
        y.width,
        inputs=[x.columns for x in inputs],
        attrs=node.attrs,
        late=low.late(*item.inputs),
    )
    low.call(node.label, [kernel], [*(x.memory for x in inputs), y.memory, low.step])


def _result(low: Lowering, item: Single) -> Rows:
    """Where a node's value goes, or the sum of it and another."""
    return low.new(low.graph.nodes[item.result], behind=item.inputs)


def _row(low: Lowering, node: Node) -> None:
    inputs = [low.value(i) for i in node.inputs]
    y = low.new(node, behind=node.inputs)
    kernel = row_op(
        low.shared.composer,
        low.shared.gpu,
        low.shared.row_ops[node.op],
        inputs=[x.columns for x in inputs],
        weights=list(node.weights),
        width=y.width,
        attrs=node.attrs,
        parts=prod(node.shape[:-1]),
        late=low.late(*node.inputs),
    )
    weights = [low.shared.weights.vector(name) for name in node.weights.values()]
    low.call(node.label, [kernel], [*(x.memory for x in inputs), *weights, y.memory, low.step])


def _fall_back(low: Lowering, node: Node) -> None:
    """Run a node by its NumPy definition, or a segment, between two stretches of the program."""
    op = low.graph.ops[node.op]
    if op.stateful:
        raise GraphError(
            f"{node.label}: the wgpu backend has no kernel for op {node.op!r}, which needs the KV cache.",
            hint="Choose another backend, for example engine_backend = 'cpu'.",
        )
    late = low.late(*node.inputs)
    # Values split into heads are seen through, but not by a definition.
    shapes = [low.graph.nodes[i].shape for i in low.graph.nodes[node.index].inputs]
    inputs = [(low.value(i), shape) for i, shape in zip(node.inputs, shapes, strict=True)]
    y = low.new(node, behind=node.inputs)
    shared = low.shared
    low.program.append(
        Fallback.of(shared.gpu, op, node, shared.source, inputs, y, late=late, segments=shared.segments)
    )
