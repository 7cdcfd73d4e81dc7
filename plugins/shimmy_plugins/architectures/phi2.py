"""phi2: Phi-1, Phi-1.5 and Phi-2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_DEFAULTS, LAYER_NORM_KEYS
from shimmy.huggingface.names import Transform
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.parts import DecoderParams, gelu, rotary_attention


@dataclass(frozen=True, kw_only=True)
class Phi2Params(DecoderParams):
    attention__layer_norm_epsilon: float


class Phi2:
    """Attention and feed-forward side by side behind one layer norm; part of each head is rotated
    (Li et al. 2023, arXiv:2309.05463)."""

    params = Phi2Params

    def build(self, g: Graph, p: Phi2Params) -> Value:
        eps = p.attention__layer_norm_epsilon
        x = g.embed("token_embd")
        for i in range(p.block_count):
            with g.block(i):
                y = g.layer_norm(x, "attn_norm", eps=eps)
                attended = rotary_attention(g, y, p, i, fused=g.has("attn_qkv"))
                x = x + attended + gelu(g, y)
        x = g.layer_norm(g.last(x), "output_norm", eps=eps)
        return g.linear(x, "output", tied="token_embd")

    def hf_transforms(self, _p: Phi2Params) -> Mapping[str, Transform]:
        """Nothing is rearranged."""
        return {}


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("PhiForCausalLM",),
        keys=LAYER_NORM_KEYS | {"attention.layer_norm_epsilon": "layer_norm_eps"},
        defaults=DECODER_DEFAULTS | {"layer_norm_eps": 1e-5},
        expected={"hidden_act": ("gelu_new", "gelu_pytorch_tanh"), "qk_layernorm": (False,)},
    )
    register(ArchitectureSpec(names=("phi2",), load=Phi2, huggingface=reading))
