"""qwen3: Qwen3, dense."""

from __future__ import annotations

from collections.abc import Callable

from shimmy import hookimpl
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.llama import Llama


class Qwen3(Llama):
    """Llama with rotary pairs half a head apart, and norms of queries and keys (arXiv:2505.09388)."""

    rope_style = "half"
    head_norms = True


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("Qwen3ForCausalLM",),
        keys=DECODER_KEYS,
        defaults=DECODER_DEFAULTS,
        expected={"hidden_act": ("silu",)},
    )
    register(ArchitectureSpec(names=("qwen3",), load=Qwen3, huggingface=reading))
