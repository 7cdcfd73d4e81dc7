"""The op table: about twenty coarse ops, each with a shape rule, one line of doc, a NumPy definition.

An op works on rows: the token axis is never part of a shape here. ``reference`` is what the op
means; engines are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shimmy.graph import shapes
from shimmy.graph.shapes import ShapeRule

if TYPE_CHECKING:
    from shimmy.graph.builder import Graph, Value


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


_HERE = "shimmy.graph.reference"
_EXPERTS = "shimmy.graph.experts"

#: Ops every engine can rely on, by name.
CORE_OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("embed", "Row of the embedding matrix for each token.", shapes.embed, f"{_HERE}:embed"),
        Op(
            "position_embed",
            "Row of a matrix for the position of each token.",
            shapes.embed,
            f"{_HERE}:position_embed",
        ),
        Op("linear", "x @ weight.T, plus bias where the file has one.", shapes.linear, f"{_HERE}:linear"),
        Op("rms_norm", "x / rms(x) * weight, over the last axis.", shapes.norm, f"{_HERE}:rms_norm"),
        Op(
            "layer_norm",
            "(x - mean) / deviation * weight, plus bias where the file has one, over the last axis.",
            shapes.norm,
            f"{_HERE}:layer_norm",
        ),
        Op("heads", "Split a row into heads: (n,) -> (heads, n / heads).", shapes.heads, f"{_HERE}:heads"),
        Op("slice", "size numbers of a row, from start on.", shapes.part, f"{_HERE}:part"),
        Op("rope", "Rotary position embedding of each head.", shapes.rope, f"{_HERE}:rope"),
        Op(
            "attention",
            "Append k and v to the layer's cache, then causal softmax attention of q over it.",
            shapes.attention,
            f"{_HERE}:attention",
            stateful=True,
        ),
        Op("gelu", "x * Phi(x), by its approximation with tanh.", shapes.same, f"{_HERE}:gelu"),
        Op("geglu", "gelu(gate) * up.", shapes.same, f"{_HERE}:geglu"),
        Op("swiglu", "silu(gate) * up.", shapes.same, f"{_HERE}:swiglu"),
        Op("sigmoid_gate", "x * sigmoid(gate), one gate for a row.", shapes.gate, f"{_HERE}:sigmoid_gate"),
        Op("add", "Elementwise sum.", shapes.same, f"{_HERE}:add"),
        Op("scale", "x * factor.", shapes.scale, f"{_HERE}:scale"),
        Op("softcap", "cap * tanh(x / cap).", shapes.softcap, f"{_HERE}:softcap"),
        Op(
            "top_experts",
            "Numbers and weights of the experts with the largest logits: (experts,) -> (2, used).",
            shapes.top_experts,
            f"{_EXPERTS}:top_experts",
        ),
        Op(
            "expert_linear",
            "x, or a row of its own for each, @ the weight of each chosen expert: -> (used, rows).",
            shapes.expert_linear,
            f"{_EXPERTS}:expert_linear",
        ),
        Op(
            "expert_sum",
            "Sum of the chosen experts' results times their weights: (used, n) -> (n,).",
            shapes.expert_sum,
            f"{_EXPERTS}:expert_sum",
        ),
        Op("last", "Only the rows whose logits are wanted.", shapes.same, f"{_HERE}:last"),
        Op("lora", "Add what the adapters of some rows add.", shapes.first, "shimmy.graph.lora:lora"),
    )
}
