"""Vocabulary kind "t5" of GGUF files: SentencePiece unigram (T5, XLM-RoBERTa, ...)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import TokenizerSpec

if TYPE_CHECKING:
    from shimmy.text.tokenizer import TokenizerFactory


@hookimpl
def register_tokenizers(register: Callable[[TokenizerSpec], None]) -> None:
    register(TokenizerSpec(model="t5", load=_load))


def _load() -> TokenizerFactory:
    from shimmy_plugins.tokenizers.unigram import make_tokenizer

    return make_tokenizer
