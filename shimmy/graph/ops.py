"""The op table: about twenty coarse ops, each with a shape rule, one line of doc, a NumPy definition.

An op works on rows: the token axis is never part of a shape here. ``reference`` is what the op
means; engines are tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from shimmy.errors import GraphError

if TYPE_CHECKING:
    from shimmy.graph.builder import Graph, Value

Shape: TypeAlias = tuple[int, ...]
ShapeRule: TypeAlias = Callable[[Sequence[Shape], Mapping[str, Shape], Mapping[str, Any]], Shape]


@dataclass(frozen=True, slots=True)
class Op:
    """One op of the graph language.

    ``shape(inputs, weights, attrs)`` gives one row's output shape or raises GraphError.
    ``reference`` names ``module:function``: the NumPy definition, called with the input arrays
    (rows first), then the weights and attrs by name; imported only where numbers are computed.
    ``stateful`` ops read the KV cache and cannot fall back to another engine.
    ``expand(graph, inputs, weights, attrs)`` rewrites the op into older ones, for engines without it.
    """

    name: str
    doc: str
    shape: ShapeRule
    reference: str
    stateful: bool = False
    expand: Callable[[Graph, Sequence[Value], Mapping[str, str], Mapping[str, Any]], Value] | None = None


def _same(inputs: Sequence[Shape], _w: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    if any(s != inputs[0] for s in inputs):
        raise GraphError(f"inputs differ in shape: {', '.join(map(str, inputs))}.")
    return inputs[0]


def _embed(_i: Sequence[Shape], weights: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    return (weights["weight"][1],)


def _linear(inputs: Sequence[Shape], weights: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    rows, columns = weights["weight"]
    if inputs[0] != (columns,):
        raise GraphError(f"the weight has {columns} columns, its input has shape {inputs[0]}.")
    if "bias" in weights and weights["bias"] != (rows,):
        raise GraphError(f"the bias has shape {weights['bias']}, the weight {rows} rows.")
    return (rows,)


def _norm(inputs: Sequence[Shape], weights: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    if weights["weight"] != inputs[0][-1:]:
        raise GraphError(f"the weight has shape {weights['weight']}, its input {inputs[0]}.")
    return inputs[0]


def _reshape(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    count, shape = inputs[0][-1], inputs[0]
    heads: int = attrs["heads"]
    if len(shape) != 1 or count % heads:
        raise GraphError(f"shape {shape} cannot be split into {heads} heads.")
    return (heads, count // heads)


def _rope(inputs: Sequence[Shape], weights: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    dims: int = attrs["dims"]
    if len(inputs[0]) != 2 or dims % 2 or not 0 < dims <= inputs[0][1]:
        raise GraphError(f"cannot rotate {dims} dimensions of heads of shape {inputs[0]}.")
    if not 1.0 < attrs["base"] < math.inf:
        raise GraphError(f"the base of rotations is {attrs['base']}, expected a finite number above 1.")
    if "factors" in weights and weights["factors"] != (dims // 2,):
        raise GraphError(f"{dims // 2} frequency factors are needed, the file has {weights['factors']}.")
    return inputs[0]


def _attention(inputs: Sequence[Shape], _w: Mapping[str, Shape], attrs: Mapping[str, Any]) -> Shape:
    q, k, v = inputs
    window, softcap = attrs["window"], attrs["softcap"]
    if window is not None and window < 1:
        raise GraphError(f"the window is {window} tokens, expected at least 1.")
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise GraphError(f"scores are capped at {softcap}, expected a finite number above 0.")
    if k[0] != v[0] or q[1] != k[1] or q[0] % k[0]:
        raise GraphError(f"queries {q}, keys {k} and values {v} do not fit together.")
    return (q[0] * v[1],)


def _first(inputs: Sequence[Shape], _w: Mapping[str, Shape], _a: Mapping[str, Any]) -> Shape:
    return inputs[0]


_HERE = "shimmy.graph.reference"

#: Ops every engine can rely on, by name.
CORE_OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("embed", "Row of the embedding matrix for each token.", _embed, f"{_HERE}:embed"),
        Op("linear", "x @ weight.T, plus bias where the file has one.", _linear, f"{_HERE}:linear"),
        Op("rms_norm", "x / rms(x) * weight, over the last axis.", _norm, f"{_HERE}:rms_norm"),
        Op("heads", "Split a row into heads: (n,) -> (heads, n / heads).", _reshape, f"{_HERE}:heads"),
        Op("rope", "Rotary position embedding of each head.", _rope, f"{_HERE}:rope"),
        Op(
            "attention",
            "Append k and v to the layer's cache, then causal softmax attention of q over it.",
            _attention,
            f"{_HERE}:attention",
            stateful=True,
        ),
        Op("swiglu", "silu(gate) * up.", _same, f"{_HERE}:swiglu"),
        Op("add", "Elementwise sum.", _same, f"{_HERE}:add"),
        Op("last", "Only the rows whose logits are wanted.", _same, f"{_HERE}:last"),
        Op("lora", "Add what the adapters of some rows add.", _first, "shimmy.graph.lora:lora"),
    )
}
