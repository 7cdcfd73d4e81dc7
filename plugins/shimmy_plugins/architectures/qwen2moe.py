"""qwen2moe: Qwen1.5's and Qwen2's mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS, EXPERT_KEYS, EXPERT_LAYERS, expert_count
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.llama import LlamaParams
from shimmy_plugins.architectures.parts import swiglu
from shimmy_plugins.architectures.qwen2 import Qwen2


@dataclass(frozen=True, kw_only=True)
class Qwen2MoeParams(LlamaParams):
    expert_weights_norm: bool = False


class Qwen2Moe(Qwen2):
    """Experts, and beside them a network for all tokens behind a gate of its own (arXiv:2407.10671)."""

    params = Qwen2MoeParams

    def feed_forward(self, g: Graph, x: Value, p: LlamaParams) -> Value:
        y = super().feed_forward(g, x, p)
        return y + g.sigmoid_gate(swiglu(g, x, "_shexp"), g.linear(x, "ffn_gate_inp_shexp"))


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    shared = {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"}
    reading = HuggingFaceSpec(
        classes=("Qwen2MoeForCausalLM",),
        keys=DECODER_KEYS | EXPERT_KEYS | shared,
        defaults=DECODER_DEFAULTS | {"norm_topk_prob": False},
        expected=EXPERT_LAYERS | {"hidden_act": ("silu",)},
        derive=expert_count,
    )
    register(ArchitectureSpec(names=("qwen2moe",), load=Qwen2Moe, huggingface=reading))
