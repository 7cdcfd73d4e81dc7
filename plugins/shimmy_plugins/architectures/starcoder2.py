"""starcoder2: StarCoder2."""

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
class Starcoder2Params(DecoderParams):
    attention__layer_norm_epsilon: float
    attention__sliding_window: int = 0


class Starcoder2:
    """Layer norms, biases everywhere, rotary positions and a plain feed-forward (Lozhkov et al. 2024,
    arXiv:2402.19173)."""

    params = Starcoder2Params

    def build(self, g: Graph, p: Starcoder2Params) -> Value:
        eps = p.attention__layer_norm_epsilon
        x = g.embed("token_embd")
        for i in range(p.block_count):
            with g.block(i):
                y = g.layer_norm(x, "attn_norm", eps=eps)
                x = x + rotary_attention(g, y, p, i, window=p.attention__sliding_window)
                x = x + gelu(g, g.layer_norm(x, "ffn_norm", eps=eps))
        x = g.layer_norm(g.last(x), "output_norm", eps=eps)
        return g.linear(x, "output", tied="token_embd")

    def hf_transforms(self, _p: Starcoder2Params) -> Mapping[str, Transform]:
        """Nothing is rearranged."""
        return {}


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    own = {"attention.layer_norm_epsilon": "norm_epsilon", "attention.sliding_window": "sliding_window"}
    reading = HuggingFaceSpec(
        classes=("Starcoder2ForCausalLM",),
        keys=LAYER_NORM_KEYS | own,
        defaults=DECODER_DEFAULTS | {"norm_epsilon": 1e-5, "sliding_window": None},
        expected={"hidden_act": ("gelu_pytorch_tanh",)},
    )
    register(ArchitectureSpec(names=("starcoder2",), load=Starcoder2, huggingface=reading))
