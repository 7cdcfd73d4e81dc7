"""Qwen2: llama with rotary pairs half a head apart, and biases on q, k and v.

The biases need no line here: ``Graph.linear`` adds one wherever the file has it.
"""

from __future__ import annotations

from collections.abc import Callable

from shimmy import hookimpl
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.llama import Llama

shimmy_api = 1


class Qwen2(Llama):
    """Qwen2 and Qwen2.5, dense (Yang et al. 2024, arXiv:2407.10671)."""

    rope_style = "half"


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("Qwen2ForCausalLM",),
        keys=DECODER_KEYS,
        defaults=DECODER_DEFAULTS,
        expected={"hidden_act": ("silu",)},
    )
    register(ArchitectureSpec(names=("qwen2",), load=Qwen2, huggingface=reading))
