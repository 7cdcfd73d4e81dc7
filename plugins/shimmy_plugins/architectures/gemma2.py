"""gemma2: Gemma 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from shimmy import hookimpl
from shimmy.errors import GraphError, ModelError
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_KEYS
from shimmy.huggingface.names import Transform, plus_one
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.gemma import GEMMA_DEFAULTS, GEMMA_EXPECTED
from shimmy_plugins.architectures.parts import DecoderParams, geglu, heads


@dataclass(frozen=True, kw_only=True)
class Gemma2Params(DecoderParams):
    attention__layer_norm_rms_epsilon: float
    attention__scale: float | None = None
    attention__sliding_window: int = 4096
    attention__sliding_window_pattern: int | list[bool] | list[int] = 2
    """Every so manyth layer sees everything; or for each layer whether it is local."""
    attn_logit_softcapping: float = 50.0
    final_logit_softcapping: float = 30.0
    rope__freq_base_swa: float | None = None

    blocks_of_27b: ClassVar[int] = 46

    @property
    def query_scale(self) -> float:
        if self.attention__scale:
            return self.attention__scale
        # No converter writes the key; only the 27B model has another scale than its head size gives.
        of_27b = self.block_count == self.blocks_of_27b
        width = self.embedding_length / self.heads if of_27b else self.head_dim
        return 1 / math.sqrt(width)

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees only its window."""
        pattern = self.attention__sliding_window_pattern
        if isinstance(pattern, list):
            if len(pattern) != self.block_count:
                raise GraphError(f"the window pattern is of {len(pattern)} layers, not {self.block_count}.")
            return bool(pattern[layer])
        return self.attention__sliding_window != 0 and (pattern == 0 or (layer + 1) % pattern != 0)


class Gemma2:
    """Gemma with norms behind attention and feed-forward too, windows in every other layer, and capped
    scores and logits (Gemma Team 2024, arXiv:2408.00118)."""

    params: type[Gemma2Params] = Gemma2Params
    head_norms = False

    def build(self, g: Graph, p: Gemma2Params) -> Value:
        eps = p.attention__layer_norm_rms_epsilon
        x = g.scale(g.embed("token_embd"), p.embedding_length**0.5)
        for i in range(p.block_count):
            with g.block(i):
                y = self.attention(g, g.rms_norm(x, "attn_norm", eps=eps), p, i)
                x = x + g.rms_norm(y, "post_attention_norm", eps=eps)
                y = geglu(g, g.rms_norm(x, "ffn_norm", eps=eps))
                x = x + g.rms_norm(y, "post_ffw_norm", eps=eps)
        x = g.rms_norm(g.last(x), "output_norm", eps=eps)
        logits = g.linear(x, "output", tied="token_embd")
        return g.softcap(logits, p.final_logit_softcapping) if p.final_logit_softcapping else logits

    def attention(self, g: Graph, x: Value, p: Gemma2Params, layer: int) -> Value:
        q, k, v = heads(g, x, p)
        if self.head_norms:
            eps = p.attention__layer_norm_rms_epsilon
            q, k = g.rms_norm(q, "attn_q_norm", eps=eps), g.rms_norm(k, "attn_k_norm", eps=eps)
        local = p.is_local(layer)
        base = (p.rope__freq_base_swa if local else None) or p.rope__freq_base
        # Layers with a base of their own were trained for their window only.
        scaled = not (local and p.rope__freq_base_swa)
        q, k = (g.rope(h, base=base, dims=p.rope_dims, style="half", scaled=scaled) for h in (q, k))
        y = g.attention(
            q,
            k,
            v,
            layer=layer,
            scale=p.query_scale,
            window=p.attention__sliding_window if local else None,
            softcap=p.attn_logit_softcapping or None,
        )
        return g.linear(y, "attn_output")

    def hf_transforms(self, _p: Gemma2Params) -> Mapping[str, Transform]:
        """Hugging Face's weights of norms are what is added to 1."""
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "output_norm")
        return dict.fromkeys((*norms, "attn_q_norm", "attn_k_norm"), plus_one)


#: Besides what every decoder has.
GEMMA2_KEYS = DECODER_KEYS | {
    "attention.scale": "query_scale",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
#: Where a config.json says that there is none of these, it says null.
GEMMA2_DEFAULTS = GEMMA_DEFAULTS | {
    "sliding_window_pattern": None,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
}
GEMMA2_EXPECTED = GEMMA_EXPECTED | {"use_bidirectional_attention": (False, None)}


#: How config.json calls a layer that sees only its window.
LOCAL = "sliding_attention"


def derive(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scale of queries, and which layers are local."""
    scale = {"query_scale": 1 / math.sqrt(config["query_pre_attn_scalar"])}
    if kinds := config.get("layer_types"):
        if unknown := set(kinds) - {LOCAL, "full_attention"}:
            raise ModelError(
                f"'layer_types' has {min(unknown)!r:.40}, expected {LOCAL!r} or 'full_attention'."
            )
        return scale | {"sliding_window_pattern": [kind == LOCAL for kind in kinds]}
    return scale


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("Gemma2ForCausalLM",),
        keys=GEMMA2_KEYS,
        defaults=GEMMA2_DEFAULTS,
        expected=GEMMA2_EXPECTED,
        derive=derive,
    )
    register(ArchitectureSpec(names=("gemma2",), load=Gemma2, huggingface=reading))
