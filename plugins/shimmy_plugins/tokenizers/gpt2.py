"""Vocabulary kind "gpt2" of GGUF files: byte-level BPE (GPT-2, Llama 3, Qwen, StarCoder, Phi-2, ...)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shimmy import hookimpl
from shimmy.specs import TokenizerSpec

if TYPE_CHECKING:
    from shimmy.text.tokenizer import TokenizerFactory


@hookimpl
def register_tokenizers(register: Callable[[TokenizerSpec], None]) -> None:
    register(TokenizerSpec(model="gpt2", load=_load, pre_tokenizer=_pre_tokenizer))


def _load() -> TokenizerFactory:
    from shimmy_plugins.tokenizers.bpe import make_tokenizer

    return make_tokenizer


def _pre_tokenizer(content: Mapping[str, Any]) -> str | None:
    from shimmy_plugins.tokenizers.recognized import pre_tokenizer_name

    return pre_tokenizer_name(content)
