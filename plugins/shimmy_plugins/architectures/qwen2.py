"""qwen2: Qwen2 and Qwen2.5, and models distilled into them."""

from __future__ import annotations

from collections.abc import Callable

from shimmy import hookimpl
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.llama import Llama


class Qwen2(Llama):
    """Llama with rotary pairs half a head apart, and biases on q, k and v (arXiv:2407.10671).

    The biases need no line here: ``Graph.linear`` adds one wherever the file has it.
    """

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
