"""Vocabulary kind "huggingface": a whole ``tokenizer.json`` inside the metadata, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import TokenizerSpec

if TYPE_CHECKING:
    from shimmy.text.tokenizer import TokenizerFactory


@hookimpl
def register_tokenizers(register: Callable[[TokenizerSpec], None]) -> None:
    register(TokenizerSpec(model="huggingface", load=_load))


def _load() -> TokenizerFactory:
    from shimmy_plugins.tokenizers.whole import make_tokenizer

    return make_tokenizer
