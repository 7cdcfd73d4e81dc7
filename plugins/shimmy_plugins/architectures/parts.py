"""What architectures have in common: parameters of decoders, heads, feed-forward networks, experts."""

from __future__ import annotations

from dataclasses import dataclass

from shimmy.errors import GGUFError, GraphError
from shimmy.graph.builder import Graph, Value


@dataclass(frozen=True, kw_only=True)
class DecoderParams:
    """Keys that nearly every decoder has."""

    block_count: int
    embedding_length: int
    attention__head_count: int
    attention__head_count_kv: int | None = None
    attention__key_length: int | None = None
    rope__dimension_count: int | None = None
    rope__freq_base: float = 10000.0

    def __post_init__(self) -> None:
        sizes = {
            "block_count": self.block_count,
            "embedding_length": self.embedding_length,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.attention__key_length or 1,
        }
        for key, size in sizes.items():
            if size < 1:
                raise GGUFError(
                    f"metadata {key!r} of the architecture is {size}, expected a number above 0.",
                    hint="Convert the model anew with a current converter.",
                )

    @property
    def heads(self) -> int:
        return self.attention__head_count

    @property
    def kv_heads(self) -> int:
        return self.attention__head_count_kv or self.heads

    @property
    def head_dim(self) -> int:
        return self.attention__key_length or self.embedding_length // self.heads

    @property
    def rope_dims(self) -> int:
        """Dimensions of a head that are rotated, the first ones."""
        return self.rope__dimension_count or self.head_dim


@dataclass(frozen=True, kw_only=True)
class ExpertParams:
    """Keys of a mixture of experts."""

    expert_count: int = 0
    expert_used_count: int = 0
    expert_weights_norm: bool = True
    expert_weights_scale: float = 1.0
    expert_gating_func: int = 0

    def check_experts(self, found: int) -> None:
        """GGUFError unless this is said of layers of so many experts, some of them chosen by softmax."""
        # The format has 0 for what a file does not say, 1 for softmax.
        expected = {
            "expert_count": (self.expert_count, (0, found), f"{found}"),
            "expert_used_count": (self.expert_used_count, range(1, found + 1), f"1 to {found}"),
            "expert_gating_func": (self.expert_gating_func, (0, 1), "1, softmax"),
        }
        for key, (value, allowed, shown) in expected.items():
            if value not in allowed:
                raise GGUFError(
                    f"metadata {key!r} of the architecture is {value}, and layers have {found} experts; "
                    f"expected {shown}.",
                    hint="Convert the model anew with a current converter.",
                )


def heads(g: Graph, x: Value, p: DecoderParams, *, fused: bool = False) -> tuple[Value, Value, Value]:
    """Queries (heads, head_dim), keys and values (kv_heads, …), of three matrices or, ``fused``, of one."""
    if not fused:
        q, k, v = (g.linear(x, name) for name in ("attn_q", "attn_k", "attn_v"))
    else:
        qkv = g.linear(x, "attn_qkv")
        k_start, v_start = p.heads * p.head_dim, (p.heads + p.kv_heads) * p.head_dim
        q, k = g.slice(qkv, 0, k_start), g.slice(qkv, k_start, v_start - k_start)
        v = g.slice(qkv, v_start, qkv.shape[0] - v_start)
    q, k, v = g.heads(q, p.heads), g.heads(k, p.kv_heads), g.heads(v, p.kv_heads)
    if q.shape[1] != p.head_dim:
        raise GraphError(
            f"'attn_q' makes {p.heads} heads of {q.shape[1]} numbers, by 'attention.key_length', or else "
            f"'embedding_length', they have {p.head_dim}."
        )
    return q, k, v


def rotary_attention(
    g: Graph, x: Value, p: DecoderParams, layer: int, *, fused: bool = False, window: int = 0
) -> Value:
    """Attention with pairs half a head apart rotated; a ``window`` of 0 is none."""
    q, k, v = heads(g, x, p, fused=fused)
    q, k = (g.rope(h, base=p.rope__freq_base, dims=p.rope_dims, style="half") for h in (q, k))
    y = g.attention(q, k, v, layer=layer, scale=p.head_dim**-0.5, window=window or None)
    return g.linear(y, "attn_output")


def swiglu(g: Graph, x: Value, suffix: str = "") -> Value:
    """A feed-forward network with a gate; ``suffix`` tells several of one layer apart."""
    gate, up = g.linear(x, f"ffn_gate{suffix}"), g.linear(x, f"ffn_up{suffix}")
    return g.linear(g.swiglu(gate, up), f"ffn_down{suffix}")


def geglu(g: Graph, x: Value) -> Value:
    """The same with GELU."""
    return g.linear(g.geglu(g.linear(x, "ffn_gate"), g.linear(x, "ffn_up")), "ffn_down")


def gelu(g: Graph, x: Value) -> Value:
    """A feed-forward network of two matrices."""
    return g.linear(g.gelu(g.linear(x, "ffn_up")), "ffn_down")


def experts(g: Graph, x: Value, p: ExpertParams) -> Value:
    """Some of many networks with a gate for each token (Jiang et al. 2024, arXiv:2401.04088)."""
    logits = g.linear(x, "ffn_gate_inp")
    p.check_experts(logits.shape[0])
    chosen = g.top_experts(
        logits,
        p.expert_used_count,
        normalize=p.expert_weights_norm,
        # The format has 0 for "none".
        scale=p.expert_weights_scale or 1.0,
    )
    gate, up = (g.expert_linear(x, name, chosen) for name in ("ffn_gate_exps", "ffn_up_exps"))
    return g.expert_sum(g.expert_linear(g.swiglu(gate, up), "ffn_down_exps", chosen), chosen)
