"""Names of Hugging Face's modules as GGUF's."""

from __future__ import annotations

from shimmy.huggingface.names import TensorNames
from shimmy.plugins import Plugins


def test_every_model_may_have_an_output_matrix(plugins: Plugins) -> None:
    """PEFT adapts it, and fine-tunes save it, where the base shares that of the embedding, too."""
    names = [name for spec in plugins.architectures for name in spec.names]
    assert {"llama", "gemma", "gemma2"} <= set(names)
    for name in names:
        assert TensorNames(name, 1).gguf_name("lm_head") == "output"
