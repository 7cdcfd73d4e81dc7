"""The text side of a served model: its tokenizer and chat template, which live in the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shimmy.errors import TemplateError

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard
    from shimmy.plugins import Plugins
    from shimmy.text.chat import ChatTemplate
    from shimmy.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelText:
    """Prompts in, tokens out. ``template`` is None for a model that is not made to chat."""

    tokenizer: Tokenizer
    template: ChatTemplate | None

    async def encode(self, prompt: str) -> list[int]:
        """Tokens of a prompt written out by the client, control tokens included, BOS added."""
        # In a thread: a long prompt must not hold up everyone else's stream.
        return await asyncio.to_thread(self.tokenizer.encode, prompt, add_special=True, parse_special=True)

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Tokens of chat messages, rendered by the model's template.

        Raises:
            TemplateError: the model has no template, or its template refuses the messages.
        """
        return await asyncio.to_thread(self._encode_chat, messages)

    def _encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if self.template is None:
            raise TemplateError(
                "this model has no chat template, so it cannot be given messages.",
                hint="Send a written-out prompt to the completions route, or use an instruct model.",
                param="model",
            )
        tokenizer = self.tokenizer
        prompt = self.template.render(messages)
        tokens = tokenizer.encode(prompt, add_special=False, parse_special=True)
        # Most templates write BOS themselves; two of them would harm as much as none.
        if tokenizer.add_bos and tokenizer.bos_id is not None and tokens[:1] != [tokenizer.bos_id]:
            tokens.insert(0, tokenizer.bos_id)
        return tokens


def read_text(card: ModelCard, plugins: Plugins) -> ModelText:
    """Build tokenizer and template from the model's file. Takes a while: call it in a thread."""
    from shimmy.gguf.reader import open_gguf
    from shimmy.text.chat import chat_template_of
    from shimmy.text.tokenizer import load_tokenizer

    with open_gguf(card.path) as file:
        metadata = file.metadata
    tokenizer = load_tokenizer(metadata, plugins.tokenizers)
    return ModelText(tokenizer, chat_template_of(metadata, tokenizer))
