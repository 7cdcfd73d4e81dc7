"""llama: Llama 1-3, TinyLlama, Mistral, SmolLM2 and every model that only renames them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.huggingface.names import RotaryPairs, Transform
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec


@dataclass(frozen=True)
class LlamaParams:
    block_count: int
    embedding_length: int
    attention__head_count: int
    attention__layer_norm_rms_epsilon: float
    attention__head_count_kv: int | None = None
    attention__key_length: int | None = None
    rope__dimension_count: int | None = None
    rope__freq_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.attention__key_length or self.embedding_length // self.attention__head_count


class Llama:
    """Pre-norm blocks of grouped-query attention with rotary positions and a SwiGLU feed-forward."""

    params = LlamaParams
    rope_style = "interleaved"

    def build(self, g: Graph, p: LlamaParams) -> Value:
        eps = p.attention__layer_norm_rms_epsilon
        x = g.embed("token_embd")
        for i in range(p.block_count):
            with g.block(i):
                x = x + self.attention(g, g.rms_norm(x, "attn_norm", eps=eps), p, i)
                x = x + self.feed_forward(g, g.rms_norm(x, "ffn_norm", eps=eps))
        x = g.rms_norm(g.last(x), "output_norm", eps=eps)
        return g.linear(x, "output", tied="token_embd")

    def hf_transforms(self, p: LlamaParams) -> Mapping[str, Transform]:
        """Where neighbours are rotated, converters bring the rows of q and k into that order."""
        if self.rope_style != "interleaved":
            return {}
        heads = p.attention__head_count
        return {"attn_q": RotaryPairs(heads), "attn_k": RotaryPairs(p.attention__head_count_kv or heads)}

    def attention(self, g: Graph, x: Value, p: LlamaParams, layer: int) -> Value:
        kv_heads = p.attention__head_count_kv or p.attention__head_count
        q = g.heads(g.linear(x, "attn_q"), p.attention__head_count)
        k = g.heads(g.linear(x, "attn_k"), kv_heads)
        v = g.heads(g.linear(x, "attn_v"), kv_heads)
        q, k = (self.rotate(g, h, p) for h in (q, k))
        return g.linear(g.attention(q, k, v, layer=layer, scale=p.head_dim**-0.5), "attn_output")

    def rotate(self, g: Graph, x: Value, p: LlamaParams) -> Value:
        dims = p.rope__dimension_count or p.head_dim
        return g.rope(x, base=p.rope__freq_base, dims=dims, style=self.rope_style)

    def feed_forward(self, g: Graph, x: Value) -> Value:
        return g.linear(g.swiglu(g.linear(x, "ffn_gate"), g.linear(x, "ffn_up")), "ffn_down")


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("LlamaForCausalLM", "MistralForCausalLM"),
        keys=DECODER_KEYS,
        defaults=DECODER_DEFAULTS,
        expected={"hidden_act": ("silu",)},
    )
    register(ArchitectureSpec(names=("llama",), load=Llama, huggingface=reading))
