"""llama: Llama 1-3, TinyLlama, Mistral, Mixtral, SmolLM2 and every model that only renames them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.huggingface.names import RotaryPairs, Transform
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.parts import DecoderParams, ExpertParams, experts, heads, swiglu


@dataclass(frozen=True, kw_only=True)
class LlamaParams(DecoderParams, ExpertParams):
    attention__layer_norm_rms_epsilon: float
    attention__sliding_window: int = 0


class Llama:
    """Pre-norm blocks of grouped-query attention with rotary positions and a SwiGLU feed-forward."""

    params: type[LlamaParams] = LlamaParams
    rope_style = "interleaved"
    head_norms = False
    """Whether queries and keys of each head are normalised."""

    def build(self, g: Graph, p: LlamaParams) -> Value:
        eps = p.attention__layer_norm_rms_epsilon
        x = self.embed(g, p)
        for i in range(p.block_count):
            with g.block(i):
                x = x + self.attention(g, g.rms_norm(x, "attn_norm", eps=eps), p, i)
                x = x + self.feed_forward(g, g.rms_norm(x, "ffn_norm", eps=eps), p)
        x = g.rms_norm(g.last(x), "output_norm", eps=eps)
        return g.linear(x, "output", tied="token_embd")

    def embed(self, g: Graph, _p: LlamaParams, /) -> Value:
        return g.embed("token_embd")

    def attention(self, g: Graph, x: Value, p: LlamaParams, layer: int) -> Value:
        # Converters make one matrix of them, if asked to.
        q, k, v = heads(g, x, p, fused=g.has("attn_qkv"))
        if self.head_norms:
            eps = p.attention__layer_norm_rms_epsilon
            q, k = g.rms_norm(q, "attn_q_norm", eps=eps), g.rms_norm(k, "attn_k_norm", eps=eps)
        q, k = (g.rope(h, base=p.rope__freq_base, dims=p.rope_dims, style=self.rope_style) for h in (q, k))
        # The first Mistral models; the format has 0 for "none".
        window = p.attention__sliding_window or None
        y = g.attention(q, k, v, layer=layer, scale=p.head_dim**-0.5, window=window)
        return g.linear(y, "attn_output")

    def feed_forward(self, g: Graph, x: Value, p: LlamaParams, /) -> Value:
        return experts(g, x, p) if p.expert_used_count or g.has("ffn_gate_inp") else swiglu(g, x)

    def hf_transforms(self, p: LlamaParams, /) -> Mapping[str, Transform]:
        """Where neighbours are rotated, converters bring the rows of q and k into that order."""
        if self.rope_style != "interleaved":
            return {}
        return {"attn_q": RotaryPairs(p.heads), "attn_k": RotaryPairs(p.kv_heads)}


def _windows(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Only Mistral's classes heed the key."""
    return {"sliding_window": None} if config["architectures"][0] == "LlamaForCausalLM" else {}


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
        keys=DECODER_KEYS
        | {
            "expert_count": "num_local_experts",
            "expert_used_count": "num_experts_per_tok",
            "attention.sliding_window": "sliding_window",
        },
        defaults=DECODER_DEFAULTS
        | dict.fromkeys(("num_local_experts", "num_experts_per_tok", "sliding_window")),
        expected={"hidden_act": ("silu",)},
        derive=_windows,
    )
    register(ArchitectureSpec(names=("llama",), load=Llama, huggingface=reading))
