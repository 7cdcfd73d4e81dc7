"""Vocabulary kind "gemma4" of GGUF files: merges as in BPE, spaces and bytes as in SentencePiece."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import TokenizerSpec

if TYPE_CHECKING:
    from shimmy.text.tokenizer import TokenizerFactory


@hookimpl
def register_tokenizers(register: Callable[[TokenizerSpec], None]) -> None:
    register(TokenizerSpec(model="gemma4", load=_load))


def _load() -> TokenizerFactory:
    from shimmy_plugins.tokenizers.merges import make_tokenizer

    return make_tokenizer
