"""gemma: Gemma 1 and CodeGemma."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shimmy import hookimpl
from shimmy.graph.builder import Graph, Value
from shimmy.huggingface.keys import DECODER_DEFAULTS, DECODER_KEYS
from shimmy.huggingface.names import Transform, plus_one
from shimmy.specs import ArchitectureSpec, HuggingFaceSpec
from shimmy_plugins.architectures.llama import Llama, LlamaParams
from shimmy_plugins.architectures.parts import geglu

#: What a config.json of any Gemma leaves out, and what is computed whatever it calls it.
GEMMA_DEFAULTS = DECODER_DEFAULTS | {"head_dim": 256}
GEMMA_EXPECTED = {
    "hidden_act": ("gelu", "gelu_pytorch_tanh"),
    "hidden_activation": ("gelu_pytorch_tanh", None),
}


class Gemma(Llama):
    """Llama with scaled embeddings and a GeGLU feed-forward (Gemma Team 2024, arXiv:2403.08295)."""

    rope_style = "half"

    def embed(self, g: Graph, p: LlamaParams) -> Value:
        return g.scale(g.embed("token_embd"), p.embedding_length**0.5)

    def feed_forward(self, g: Graph, x: Value, _p: LlamaParams) -> Value:
        return geglu(g, x)

    def hf_transforms(self, _p: LlamaParams) -> Mapping[str, Transform]:
        """Hugging Face's weights of norms are what is added to 1."""
        return dict.fromkeys(("attn_norm", "ffn_norm", "output_norm"), plus_one)


@hookimpl
def register_architectures(register: Callable[[ArchitectureSpec], None]) -> None:
    reading = HuggingFaceSpec(
        classes=("GemmaForCausalLM",),
        keys=DECODER_KEYS,
        defaults=GEMMA_DEFAULTS,
        expected=GEMMA_EXPECTED,
    )
    register(ArchitectureSpec(names=("gemma",), load=Gemma, huggingface=reading))
