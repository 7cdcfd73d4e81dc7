"""Vocabulary kind "gpt2" of GGUF files: byte-level BPE (GPT-2, Llama 3, Qwen, StarCoder, Phi-2, ...)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import TokenizerSpec

if TYPE_CHECKING:
    from shimmy.text.tokenizer import TokenizerFactory


@hookimpl
def register_tokenizers(register: Callable[[TokenizerSpec], None]) -> None:
    register(TokenizerSpec(model="gpt2", load=_load))


def _load() -> TokenizerFactory:
    from shimmy_plugins.tokenizers.bpe import make_tokenizer

    return make_tokenizer
