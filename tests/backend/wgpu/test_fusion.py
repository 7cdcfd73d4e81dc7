"""Which nodes are computed together: seen on made-up graphs, one rewrite at a time, and on a real model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def fused(build: Callable[[Graph, Value], Value], mergeable: bool = True) -> list[str]:
    """What ``build`` makes of an input, as text: results have names of their nodes."""
    graph = Graph(Table())
    graph.output = build(graph, graph.embed("w9x8")).index
    return [shown(graph, item) for item in fuse(graph, lambda _names: mergeable)]


def shown(graph: Graph, item: Fused) -> str:
    inputs = ", ".join(graph.nodes[i].label for i in item.inputs)
    extras = [
        name if value is True else f"{name} {getattr(value, 'label', value)}"
        for name in ("norm", "swiglu")
        if (value := getattr(item, name, None))
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

    assert fused(build) == ["w9x8() -> w9x8", "w8(w9x8) -> w8", "w8x8(w8, w8) -> add"]


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
        "attention(w8x8, bw4x8, cw4x8) -> attention",
        "w9x8_1(attention) -> w9x8_1",
    ]


def test_products_whose_matrices_do_not_fit_together_stay_apart() -> None:
    assert "bw4x8(w9x8) -> bw4x8" in fused(_attention, mergeable=False)


def test_swiglu_becomes_the_end_of_its_two_products() -> None:
    def build(g: Graph, x: Value) -> Value:
        return x + g.linear(g.swiglu(g.linear(x, "w6x8"), g.linear(x, "bw6x8")), "w8x6")

    assert fused(build) == [
        "w9x8() -> w9x8",
        "w6x8+bw6x8(w9x8) -> swiglu swiglu",
        "w8x6(swiglu, w9x8) -> add",
    ]


def test_a_product_read_twice_is_no_part_of_a_swiglu() -> None:
    def build(g: Graph, x: Value) -> Value:
        gate = g.linear(x, "w8x8")
        return g.swiglu(gate, g.linear(x, "bw8x8")) + gate

    assert fused(build)[-1] == "add(swiglu, w8x8) -> add"
