"""qwen3moe: Qwen3's mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable

from shimmy import hookimpl
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS, EXPERT_KEYS, EXPERT_LAYERS, expert_count
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.qwen3 import Qwen3


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("Qwen3MoeForCausalLM",),
        keys=DECODER_KEYS | EXPERT_KEYS,
        # What transformers does without the key; files without it come from models that normalise.
        defaults=DECODER_DEFAULTS | {"norm_topk_prob": False},
        expected=EXPERT_LAYERS | {"hidden_act": ("silu",)},
        derive=expert_count,
    )
    # Llama's blocks have experts where the file has them.
    register(ArchitectureSpec(names=("qwen3moe",), load=Qwen3, huggingface=reading))
