"""phi3: Phi-3, Phi-3.5 and Phi-4, dense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.huggingface.names import Transform
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.parts import DecoderParams, rotary_attention


@dataclass(frozen=True, kw_only=True)
class Phi3Params(DecoderParams):
    attention__layer_norm_rms_epsilon: float
    attention__sliding_window: int = 0


class Phi3:
    """Llama with one matrix for q, k and v, and one for gate and up (Abdin et al. 2024, arXiv:2404.14219).

    LongRoPE's factors need no line here: ``Graph.rope`` applies what the file says of scaling. The window is
    that of the file, as transformers computes it.
    """

    params = Phi3Params

    def build(self, g: Graph, p: Phi3Params) -> Value:
        eps = p.attention__layer_norm_rms_epsilon
        x = g.embed("token_embd")
        for i in range(p.block_count):
            with g.block(i):
                y = g.rms_norm(x, "attn_norm", eps=eps)
                x = x + rotary_attention(g, y, p, i, fused=True, window=p.attention__sliding_window)
                x = x + self.feed_forward(g, g.rms_norm(x, "ffn_norm", eps=eps))
        x = g.rms_norm(g.last(x), "output_norm", eps=eps)
        return g.linear(x, "output", tied="token_embd")

    def feed_forward(self, g: Graph, x: Value) -> Value:
        both = g.linear(x, "ffn_up")
        half = both.shape[0] // 2
        gate, up = g.slice(both, 0, half), g.slice(both, half, both.shape[0] - half)
        return g.linear(g.swiglu(gate, up), "ffn_down")

    def hf_transforms(self, _p: Phi3Params) -> Mapping[str, Transform]:
        """Nothing is rearranged."""
        return {}


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("Phi3ForCausalLM",),
        keys=DECODER_KEYS | {"attention.sliding_window": "sliding_window"},
        defaults=DECODER_DEFAULTS | {"rms_norm_eps": 1e-5, "sliding_window": None},
        expected={"hidden_act": ("silu",)},
    )
    register(ArchitectureSpec(names=("phi3",), load=Phi3, huggingface=reading))
