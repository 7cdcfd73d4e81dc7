"""OLMo 2: norms behind attention and feed-forward instead of before them, and of whole rows of q and k."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.huggingface.names import Transform
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec

shimmy_api = 1


@dataclass(frozen=True)
class Olmo2Params:
    """``attention__head_count`` is the key ``olmo2.attention.head_count``; it must be there."""

    block_count: int
    embedding_length: int
    attention__head_count: int
    attention__layer_norm_rms_epsilon: float
    attention__head_count_kv: int | None = None
    rope__freq_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.embedding_length // self.attention__head_count


class Olmo2:
    """Team OLMo 2024, arXiv:2501.00656."""

    params = Olmo2Params

    def build(self, g: Graph, p: Olmo2Params) -> Value:
        eps = p.attention__layer_norm_rms_epsilon
        x = g.embed("token_embd")
        for i in range(p.block_count):
            with g.block(i):
                x = x + g.rms_norm(self.attention(g, x, p, i), "post_attention_norm", eps=eps)
                x = x + g.rms_norm(self.feed_forward(g, x), "post_ffw_norm", eps=eps)
        x = g.rms_norm(g.last(x), "output_norm", eps=eps)
        return g.linear(x, "output", tied="token_embd")

    def attention(self, g: Graph, x: Value, p: Olmo2Params, layer: int) -> Value:
        eps = p.attention__layer_norm_rms_epsilon
        kv_heads = p.attention__head_count_kv or p.attention__head_count
        q = g.heads(g.rms_norm(g.linear(x, "attn_q"), "attn_q_norm", eps=eps), p.attention__head_count)
        k = g.heads(g.rms_norm(g.linear(x, "attn_k"), "attn_k_norm", eps=eps), kv_heads)
        v = g.heads(g.linear(x, "attn_v"), kv_heads)
        q, k = (g.rope(h, base=p.rope__freq_base, dims=p.head_dim, style="half") for h in (q, k))
        return g.linear(g.attention(q, k, v, layer=layer, scale=p.head_dim**-0.5), "attn_output")

    def feed_forward(self, g: Graph, x: Value) -> Value:
        return g.linear(g.swiglu(g.linear(x, "ffn_gate"), g.linear(x, "ffn_up")), "ffn_down")

    def hf_transforms(self, _p: Olmo2Params) -> Mapping[str, Transform]:
        """Hugging Face's weights are as GGUF has them."""
        return {}


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("Olmo2ForCausalLM",),
        keys=DECODER_KEYS,
        defaults=DECODER_DEFAULTS | {"rms_norm_eps": 1e-5},
        expected={"hidden_act": ("silu",)},
    )
    register(ArchitectureSpec(names=("olmo2",), load=Olmo2, huggingface=reading))
