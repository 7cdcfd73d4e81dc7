"""gpt2: GPT-2, DistilGPT-2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.names import Transform, Transposed
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.parts import DecoderParams, gelu, heads


@dataclass(frozen=True, kw_only=True)
class Gpt2Params(DecoderParams):
    attention__layer_norm_epsilon: float


class Gpt2:
    """Learned positions, layer norms, one matrix for q, k and v (Radford et al. 2019)."""

    params = Gpt2Params

    def build(self, g: Graph, p: Gpt2Params) -> Value:
        eps = p.attention__layer_norm_epsilon
        x = g.embed("token_embd") + g.position_embed("position_embd")
        for i in range(p.block_count):
            with g.block(i):
                x = x + self.attention(g, g.layer_norm(x, "attn_norm", eps=eps), p, i)
                x = x + gelu(g, g.layer_norm(x, "ffn_norm", eps=eps))
        x = g.layer_norm(g.last(x), "output_norm", eps=eps)
        return g.linear(x, "output", tied="token_embd")

    def attention(self, g: Graph, x: Value, p: Gpt2Params, layer: int) -> Value:
        q, k, v = heads(g, x, p, fused=True)
        return g.linear(g.attention(q, k, v, layer=layer, scale=p.head_dim**-0.5), "attn_output")

    def hf_transforms(self, _p: Gpt2Params) -> Mapping[str, Transform]:
        """Hugging Face keeps all matrices of a block as (columns, rows)."""
        return dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), Transposed())


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("GPT2LMHeadModel",),
        keys={
            "vocab_size": "vocab_size",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        defaults={"layer_norm_epsilon": 1e-5},
        expected={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        derive=lambda config: {"n_inner": config.get("n_inner") or 4 * config["n_embd"]},
        rotary=False,
        # The causal mask, which older versions stored.
        ignored=(".attn.bias",),
    )
    register(ArchitectureSpec(names=("gpt2",), load=Gpt2, huggingface=reading))
