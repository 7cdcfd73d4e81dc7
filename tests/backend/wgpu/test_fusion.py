"""Which nodes are computed together: seen on made-up graphs, one rewrite at a time, and on a real model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from shimmy.graph.builder import Graph, Value
from shimmy_plugins.backends.wgpu.fusion import Fused, fuse

WIDTH = 8


@dataclass
class Table:
    """Any tensor whose name has a size in it: ``w16x8``."""

    def __contains__(self, name: str) -> bool:
        return not name.endswith(".bias")

    def names(self) -> list[str]:
        return []

    def shape(self, name: str) -> tuple[int, ...]:
        size = name.removesuffix(".weight").rpartition("w")[2]
        return tuple(map(int, size.split("x")))


def fused(
    build: Callable[[Graph, Value], Value], mergeable: bool = True, *, experts_alone: bool = False
) -> list[str]:
    """What ``build`` makes of an input that something else reads, as text: results have names of nodes."""
    graph = Graph(Table())
    graph.output = graph.scale(build(graph, graph.embed("w9x8")), 2.0).index
    *items, _ = fuse(graph, lambda _names: mergeable, experts_alone=experts_alone)
    return [shown(graph, item) for item in items]


def shown(graph: Graph, item: Fused) -> str:
    inputs = ", ".join(graph.nodes[i].label for i in item.inputs)
    extras = [
        f"{name} {getattr(value, 'label', value)}"
        for name in ("norm", "end", "rope", "norms")
        if (value := getattr(item, name, None)) not in (None, (None, None))
    ]
    return " ".join([f"{item.label}({inputs}) -> {graph.nodes[item.result].label}", *extras])


def test_a_norm_read_by_products_alone_is_part_of_them() -> None:
    def build(g: Graph, x: Value) -> Value:
        normed = g.rms_norm(x, "w8", eps=1e-5)
        return g.linear(g.linear(normed, "w6x8"), "w9x6")

    assert fused(build) == ["w9x8() -> w9x8", "w6x8(w9x8) -> w6x8 norm w8", "w9x6(w6x8) -> w9x6"]


def test_a_norm_that_others_read_stays() -> None:
    def build(g: Graph, x: Value) -> Value:
        normed = g.rms_norm(x, "w8", eps=1e-5)
        return g.linear(normed, "w8x8") + normed

    assert fused(build) == ["w9x8() -> w9x8", "w8(w9x8) -> w8", "w8x8(w8) -> w8x8", "add(w8x8, w8) -> add"]


def test_sums_are_taken_in_place_only_where_nobody_reads_the_old_value_later() -> None:
    def build(g: Graph, x: Value) -> Value:
        first = x + g.linear(x, "w8x8")
        return first + x

    assert fused(build) == [
        "w9x8() -> w9x8",
        "w8x8(w9x8) -> w8x8",
        "add(w9x8, w8x8) -> add",
        "add_1(add, w9x8) -> add_1",
    ]


def _attention(g: Graph, x: Value) -> Value:
    k, v = (g.heads(g.linear(x, name), 2) for name in ("bw4x8", "cw4x8"))
    q = g.heads(g.linear(x, "w8x8"), 4)
    q, k = (g.rope(value, base=1e4, dims=2, style="half") for value in (q, k))
    return g.linear(g.attention(q, k, v, layer=0, scale=1.0), "w9x8")


def test_products_of_one_input_that_attention_reads_become_one() -> None:
    assert fused(_attention)[1:] == [
        "bw4x8+cw4x8+w8x8(w9x8) -> bw4x8",
        "attention(w8x8, bw4x8, cw4x8) -> attention rope rope",
        "w9x8_1(attention) -> w9x8_1",
    ]


def test_products_whose_matrices_do_not_fit_together_stay_apart() -> None:
    assert "bw4x8(w9x8) -> bw4x8" in fused(_attention, mergeable=False)


def test_swiglu_becomes_the_end_of_its_two_products() -> None:
    def build(g: Graph, x: Value) -> Value:
        return x + g.linear(g.swiglu(g.linear(x, "w6x8"), g.linear(x, "bw6x8")), "w8x6")

    assert fused(build) == [
        "w9x8() -> w9x8",
        "w6x8+bw6x8(w9x8) -> swiglu end swiglu",
        "w8x6(swiglu, w9x8) -> add",
    ]


def test_a_product_read_twice_is_no_part_of_a_swiglu() -> None:
    def build(g: Graph, x: Value) -> Value:
        gate = g.linear(x, "w8x8")
        return g.swiglu(gate, g.linear(x, "bw8x8")) + gate

    assert fused(build)[-1] == "add(swiglu, w8x8) -> add"


def test_gelu_of_a_product_and_a_gate_of_its_halves_become_its_end() -> None:
    def build(g: Graph, x: Value) -> Value:
        bent = g.gelu(g.linear(g.layer_norm(x, "w8", eps=1e-5), "w12x8"))
        both = g.linear(bent, "w6x12")
        return g.geglu(g.slice(both, 0, 3), g.slice(both, 3, 3))

    assert fused(build)[1:] == ["w12x8(w9x8) -> gelu norm w8 end gelu", "w6x12(gelu) -> geglu end geglu"]


@pytest.mark.parametrize("first", [3, 0])
def test_other_halves_are_views_of_a_product(first: int) -> None:
    def build(g: Graph, x: Value) -> Value:
        both = g.linear(x, "w6x8")
        return g.swiglu(g.slice(both, first, 3), g.slice(both, 0, 3))

    assert fused(build)[1] == "w6x8(w9x8) -> w6x8"
    assert fused(build)[-1] == "swiglu(slice, slice_1) -> swiglu"


def test_a_slice_is_computed_only_where_it_is_multiplied() -> None:
    def build(g: Graph, x: Value) -> Value:
        first, second = g.slice(x, 0, 4), g.slice(x, 4, 3)
        return g.linear(first, "w3x4") + g.gelu(second)

    graph = Graph(Table())
    graph.output = graph.scale(build(graph, graph.embed("w9x7")), 2.0).index
    kinds = [type(item).__name__ for item in fuse(graph, lambda _names: True)]
    assert kinds == ["Single", "Single", "View", "Single", "Linear", "Single"]


def test_norms_are_added_where_they_are_computed() -> None:
    def build(g: Graph, x: Value) -> Value:
        return x + g.rms_norm(g.linear(x, "w8x8"), "w8", eps=1e-5)

    assert fused(build)[1:] == ["w8x8(w9x8) -> w8x8", "w8(w8x8, w9x8) -> add"]


def test_no_product_is_added_to_what_it_multiplies() -> None:
    assert fused(lambda g, x: x + g.linear(x, "w8x8"))[1:] == [
        "w8x8(w9x8) -> w8x8",
        "add(w9x8, w8x8) -> add",
    ]


def test_two_products_are_added_to_one_value() -> None:
    """As in blocks whose attention and feed-forward read the same; nothing is overwritten too early."""

    def build(g: Graph, x: Value) -> Value:
        normed = g.layer_norm(x, "w8", eps=1e-5)
        a = g.linear(g.gelu(g.linear(normed, "w12x8")), "w8x12")
        return x + a + g.linear(g.gelu(g.linear(normed, "bw12x8")), "bw8x12")

    assert fused(build)[1:] == [
        "w12x8(w9x8) -> gelu norm w8 end gelu",
        "bw12x8(w9x8) -> gelu_1 norm w8 end gelu",
        "w8x12(gelu, w9x8) -> add",
        "bw8x12(gelu_1, add) -> add_1",
    ]


def test_no_product_is_computed_after_its_input_is_overwritten() -> None:
    def build(g: Graph, x: Value) -> Value:
        first, second = g.linear(g.gelu(x), "w8x8"), g.linear(x, "bw8x8")
        return x + first + second

    assert fused(build)[1:] == [
        "gelu(w9x8) -> gelu",
        "bw8x8(w9x8) -> bw8x8",
        "w8x8(gelu, w9x8) -> add",
        "add_1(add, bw8x8) -> add_1",
    ]


def _normed_heads(g: Graph, x: Value) -> Value:
    q, k, v = (g.heads(g.linear(x, name), 2) for name in ("w8x8", "bw8x8", "cw8x8"))
    q, k = (g.rms_norm(value, "w4", eps=1e-6) for value in (q, k))
    q, k = (g.rope(value, base=1e4, dims=4, style="half") for value in (q, k))
    return g.attention(q, k, v, layer=0, scale=1.0)


def test_norms_of_heads_are_part_of_attention() -> None:
    assert fused(_normed_heads)[1] == "w8x8+bw8x8+cw8x8(w9x8) -> w8x8"
    assert fused(_normed_heads)[2].startswith("attention(w8x8, bw8x8, cw8x8) -> attention rope rope norms")


def test_rotations_of_two_kinds_stay() -> None:
    def build(g: Graph, x: Value) -> Value:
        q, k, v = (g.heads(g.linear(x, name), 2) for name in ("w8x8", "bw8x8", "cw8x8"))
        q, k = g.rope(q, base=1e4, dims=4, style="half"), g.rope(k, base=1e6, dims=4, style="half")
        return g.attention(q, k, v, layer=0, scale=1.0)

    assert fused(build)[2:] == [
        "rope(w8x8) -> rope",
        "rope_1(bw8x8) -> rope_1",
        "attention(rope, rope_1, cw8x8) -> attention",
    ]


def test_parts_of_one_product_are_attended_to() -> None:
    def build(g: Graph, x: Value) -> Value:
        qkv = g.linear(g.layer_norm(x, "w8", eps=1e-5), "w24x8")
        q, k, v = (g.heads(g.slice(qkv, start, 8), 2) for start in (0, 8, 16))
        return x + g.linear(g.attention(q, k, v, layer=0, scale=1.0), "w8x8")

    assert fused(build)[1:] == [
        "w24x8(w9x8) -> w24x8 norm w8",
        "slice(w24x8) -> slice",
        "slice_1(w24x8) -> slice_1",
        "slice_2(w24x8) -> slice_2",
        "attention(slice, slice_1, slice_2) -> attention",
        "w8x8(attention, w9x8) -> add",
    ]


def experts(g: Graph, x: Value) -> Value:
    normed = g.rms_norm(x, "w8", eps=1e-5)
    chosen = g.top_experts(g.linear(normed, "w4x8"), 2, normalize=True)
    gate, up = (g.expert_linear(normed, name, chosen) for name in ("w4x6x8", "bw4x6x8"))
    down = g.expert_linear(g.swiglu(gate, up), "w4x8x6", chosen)
    return x + g.expert_sum(down, chosen)


def test_experts_that_adapters_add_to_are_alone() -> None:
    assert fused(experts, experts_alone=True)[1:] == [
        "w8(w9x8) -> w8",
        "w4x8(w8) -> w4x8",
        "top_experts(w4x8) -> top_experts",
        "w4x6x8(w8, top_experts) -> w4x6x8",
        "bw4x6x8(w8, top_experts) -> bw4x6x8",
        "swiglu(w4x6x8, bw4x6x8) -> swiglu",
        "w4x8x6(swiglu, top_experts) -> w4x8x6",
        "expert_sum(w4x8x6, top_experts, w9x8) -> add",
    ]


def test_experts() -> None:
    assert fused(experts)[1:] == [
        "w4x8(w9x8) -> w4x8 norm w8",
        "top_experts(w4x8) -> top_experts",
        "w4x6x8+bw4x6x8(w9x8, top_experts) -> swiglu norm w8 end swiglu",
        "w4x8x6(swiglu, top_experts) -> w4x8x6",
        "expert_sum(w4x8x6, top_experts, w9x8) -> add",
    ]


def test_a_sum_that_is_wanted_is_not_taken_in_place() -> None:
    graph = Graph(Table())
    x = graph.embed("w9x8")
    graph.output = (x + graph.linear(graph.gelu(x), "w8x8")).index
    items = [shown(graph, item) for item in fuse(graph, lambda _names: True)]
    assert items[-1] == "add(w9x8, w8x8) -> add"
