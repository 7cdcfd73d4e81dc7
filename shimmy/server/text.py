"""The text side of a served model: its tokenizer, chat template and sampling, which live in the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shimmy.server.sampling import SamplingDefaults, sampling_defaults
from shimmy.text.fit import check_fits, longest_token

if TYPE_CHECKING:
    from pathlib import Path

    from shimmy.discovery.catalog import ModelCard
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings
    from shimmy.text.choose import ChosenTemplate
    from shimmy.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelText:
    """Prompts in, tokens out; and how tokens are chosen for requests that do not say."""

    tokenizer: Tokenizer
    chat: ChosenTemplate
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    ends: frozenset[int] = frozenset()
    """Further tokens that end an answer: an adapter's folder names them."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer: by the vocabulary, by the chat template, and by the adapter."""
        return self.tokenizer.stop_ids | self.chat.stop_ids | self.ends

    @property
    def chat_stops(self) -> tuple[str, ...]:
        """Texts that end an answer in a chat, for templates whose turns end without a token."""
        return self.chat.template.stops if self.chat.template else ()

    async def encode(self, prompt: str, context: int) -> list[int]:
        """Tokens of a prompt written out by the client, control tokens included, BOS added.

        Raises:
            ContextLengthError: it is far too long for a context of so many tokens.
        """
        # In a thread: a long prompt must not hold up everyone else's stream.
        return await asyncio.to_thread(self._encode, prompt, context)

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]], context: int) -> list[int]:
        """Tokens of chat messages, rendered by the model's template.

        Raises:
            ContextLengthError: they are far too long for a context of so many tokens.
            TemplateError: the model has no template, or its template refuses the messages.
        """
        return await asyncio.to_thread(self._encode_chat, messages, context)

    def _encode(self, prompt: str, context: int) -> list[int]:
        self._check_fits(prompt, context)
        return self.tokenizer.encode(prompt, add_special=True, parse_special=True)

    def _encode_chat(self, messages: Sequence[Mapping[str, Any]], context: int) -> list[int]:
        template = self.chat.require()
        if sum(len(message["content"]) for message in messages) > context:
            # Rendered once more than need be: everything behind it takes far longer.
            self._check_fits(template.render(messages), context)
        return template.encode(messages, self.tokenizer)

    def _check_fits(self, text: str, context: int) -> None:
        # No texts but long ones are worth a look at the vocabulary.
        if len(text) > context:
            check_fits(text, self._longest_token, context)

    @cached_property
    def _longest_token(self) -> int:
        return longest_token(self.tokenizer)


def read_text(
    card: ModelCard, settings: Settings, plugins: Plugins, base: ModelText | None = None
) -> ModelText:
    """Build tokenizer and template from the model's file or folder, and from its adapter's if it has one.

    Takes a while: call it in a thread. ``base`` lends its tokenizer to an adapter that changes nothing of it.
    """
    from shimmy.lora.text import AdapterText, read_adapter_text, same_vocabulary
    from shimmy.text.choose import choose_template
    from shimmy.text.tokenizer import load_tokenizer

    metadata = _metadata(card.path, plugins)
    own = AdapterText(metadata) if card.adapter is None else read_adapter_text(metadata, card.adapter)
    if base is not None and same_vocabulary(own.metadata, metadata):
        tokenizer = base.tokenizer
    else:
        tokenizer = load_tokenizer(own.metadata, plugins.tokenizers, pre_tokenizer=settings.pre_tokenizer)
    template = choose_template(
        own.metadata, card, tokenizer, plugins, settings.chat_template, carrier=own.template_file
    )
    return ModelText(tokenizer, template, sampling_defaults(own.metadata, settings), own.ends)


def _metadata(path: Path, plugins: Plugins) -> Mapping[str, Any]:
    """All metadata of a model's file; of a folder, those that its file will have once it is made."""
    if path.is_dir():
        from shimmy.huggingface.folder import ModelFolder
        from shimmy.huggingface.model import FolderModel

        return FolderModel(ModelFolder(path), plugins).metadata
    from shimmy.caches import cache_folder
    from shimmy.text.remembered import read_metadata

    return read_metadata(path, cache_folder() / "vocabularies")
