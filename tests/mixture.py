"""A small model with experts in all layers but the first, beside a dense network in each; all made up."""

from __future__ import annotations

import numpy as np

from shimmy.gguf.quant import FloatRun
from shimmy.graph.builder import Graph, Value
from tests.backend.harness import MadeUpWeights, floats

LAYERS, WIDTH, HEADS, EXPERTS, USED, WIDE, VOCABULARY = 3, 32, 2, 5, 2, 64, 64


def weights(seed: int = 11) -> MadeUpWeights:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int = WIDTH) -> FloatRun:
        return FloatRun(floats(rng, rows, columns).values * np.float32(columns**-0.5))

    runs = {"token_embd": matrix(VOCABULARY), "output": matrix(VOCABULARY)}
    norms = ["output_norm"]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        norms += [f"{block}attn_norm", f"{block}ffn_norm"]
        runs |= {f"{block}attn_{name}": matrix(WIDTH) for name in ("q", "k", "v", "output")}
        runs |= {f"{block}ffn_up": matrix(WIDE), f"{block}ffn_down": matrix(WIDTH, WIDE)}
        if layer:
            runs |= {f"{block}ffn_gate_inp": matrix(EXPERTS)}
            runs |= {f"{block}ffn_{name}_exps": matrix(EXPERTS * WIDE) for name in ("gate", "up")}
            runs |= {f"{block}ffn_down_exps": matrix(EXPERTS * WIDTH, WIDE)}
    vectors = {f"{name}.weight": rng.normal(1, 0.1, WIDTH).astype(np.float32) for name in norms}
    stacked = {name: EXPERTS for name in runs if name.endswith("_exps")}
    return MadeUpWeights(**runs).stacked(**stacked).with_vectors(**vectors)


def graph(tensors: MadeUpWeights, *, early: bool = False) -> Graph:
    """The chosen experts' nodes have others between them, as an architecture may record them.

    ``early``: rows whose logits are not wanted end before the last layer's networks.
    """
    g = Graph(tensors)
    x = g.embed("token_embd")
    for layer in range(LAYERS):
        with g.block(layer):
            x = x + _attention(g, g.rms_norm(x, "attn_norm", eps=1e-5), layer)
            if early and layer == LAYERS - 1:
                x = g.last(x)
            y = g.rms_norm(x, "ffn_norm", eps=1e-5)
            dense = g.gelu(g.linear(y, "ffn_up"))
            if layer:
                x = x + _experts(g, y)
            x = x + g.linear(dense, "ffn_down")
    x = x if early else g.last(x)
    g.output = g.linear(g.rms_norm(x, "output_norm", eps=1e-5), "output").index
    return g


def two_values(g: Graph) -> Value:
    """Two layers of which the second, and what follows, read more than one value of what is before."""
    x = g.embed("token_embd")
    with g.block(0):
        y = g.linear(x, "attn_q")
    with g.block(1):
        return g.last(g.linear(y, "attn_q") + x)


def _attention(g: Graph, x: Value, layer: int) -> Value:
    q, k, v = (g.heads(g.linear(x, f"attn_{name}"), HEADS) for name in "qkv")
    q, k = (g.rope(part, base=1e4, dims=WIDTH // HEADS, style="half") for part in (q, k))
    return g.linear(g.attention(q, k, v, layer=layer, scale=0.25), "attn_output")


def _experts(g: Graph, x: Value) -> Value:
    chosen = g.top_experts(g.linear(x, "ffn_gate_inp"), USED, normalize=True)
    gate = g.expert_linear(x, "ffn_gate_exps", chosen)
    up = g.expert_linear(x, "ffn_up_exps", chosen)
    return g.expert_sum(g.expert_linear(g.swiglu(gate, up), "ffn_down_exps", chosen), chosen)
