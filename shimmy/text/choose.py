"""Which chat template a model gets, and why. What the file says decides; nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.errors import ConfigError, TemplateError, did_you_mean
from shimmy.text.chat import ChatTemplate, TemplateLimitError, chat_template_of, make_template
from shimmy.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard
    from shimmy.hooks import Plugins
    from shimmy.specs import ChatTemplateSpec

#: The ``name`` of a template that the model file itself carries.
OWN = "own"

NAME_KEYS = ("general.name", "general.basename", "general.finetune")

#: Words in a model's names by which its makers say that it was trained for chats.
CHAT_WORDS = frozenset({"instruct", "chat", "it", "assistant", "sft", "dpo", "orpo", "rlhf"})

#: Tags that say so.
CHAT_TAGS = frozenset({"conversational", "chat", "instruct"})


@dataclass(frozen=True, slots=True)
class ChosenTemplate:
    """A model's chat template, or None; ``reason`` is a sentence for people either way."""

    template: ChatTemplate | None
    name: str | None
    """``own``, the name of a family, or the file that the setting names; None without a template."""
    reason: str
    stop_ids: frozenset[int] = frozenset()
    """Control tokens that end a turn in this template, beside the tokenizer's own ``stop_ids``."""

    def require(self) -> ChatTemplate:
        """The template. Raises TemplateError, with advice, for a model that has none."""
        if self.template is None:
            raise TemplateError(
                f"this model has no usable chat template, so it cannot be given messages: {self.reason}",
                hint="Send a written-out prompt to a completion route, use an instruct model, or name a "
                "template with the setting `chat_template`.",
                param="model",
            )
        return self.template


def choose_template(
    metadata: Mapping[str, Any],
    card: ModelCard,
    tokenizer: Tokenizer,
    plugins: Plugins,
    forced: str | None = None,
    *,
    carrier: Path | None = None,
) -> ChosenTemplate:
    """The template of a model: ``forced``, its own, a plugin's choice, the family it belongs to, or none.

    Args:
        forced: the setting ``chat_template``: a family, one of the file's named templates, or a file.
        carrier: the adapter's file that the template in ``metadata`` comes from; None: the model's own.

    Raises:
        ConfigError: ``forced`` is none of these.
        TemplateError: the template is not one.
    """
    if forced is not None:
        template = _forced(forced, metadata, tokenizer, plugins)
        return _chosen(template, forced, "the setting `chat_template` names it.", tokenizer)
    if (own := chat_template_of(metadata, tokenizer, carrier=carrier)) is not None:
        file = "the model file" if carrier is None else f"the adapter's {carrier.name}"
        return _chosen(own, OWN, f"{file} carries it.", tokenizer)
    if (name := plugins.select_chat_template(card)) is not None:
        template = _of_family(plugins.chat_templates.get(name), tokenizer)
        return _chosen(template, name, "a plugin chose it for this model.", tokenizer)
    matches = list(_matching(metadata, tokenizer, plugins))
    if len(matches) == 1:
        spec, reason = matches[0]
        return _chosen(_of_family(spec, tokenizer), spec.name, reason, tokenizer)
    return ChosenTemplate(None, None, _why_none(metadata, [spec.name for spec, _ in matches]))


def _forced(name: str, metadata: Mapping[str, Any], tokenizer: Tokenizer, plugins: Plugins) -> ChatTemplate:
    if name in plugins.chat_templates:
        return _of_family(plugins.chat_templates.get(name), tokenizer)
    if (variant := chat_template_of(metadata, tokenizer, name)) is not None:
        return variant
    try:
        source = Path(name).read_text("utf-8")
    except (OSError, ValueError):
        raise ConfigError(
            f"chat_template is {name!r}: neither a template family, nor a template in the model file, "
            "nor a file with one that can be read.",
            hint=did_you_mean(name, plugins.chat_templates.names()),
            param="chat_template",
        ) from None
    return make_template(source, tokenizer, name=name)


def _of_family(spec: ChatTemplateSpec, tokenizer: Tokenizer) -> ChatTemplate:
    return make_template(spec.source.read_text("utf-8"), tokenizer, name=spec.name, stops=spec.stops)


def _chosen(template: ChatTemplate, name: str, reason: str, tokenizer: Tokenizer) -> ChosenTemplate:
    try:
        return ChosenTemplate(template, name, reason, _ends_of_turn(template, tokenizer))
    except TemplateLimitError as error:
        return ChosenTemplate(None, None, error.message)


def _matching(
    metadata: Mapping[str, Any], tokenizer: Tokenizer, plugins: Plugins
) -> Iterator[tuple[ChatTemplateSpec, str]]:
    """The families whose rule the file meets, with the reason."""
    names = {key: _words(metadata[key]) for key in NAME_KEYS if isinstance(metadata.get(key), str)}
    statement = _made_for_chats(metadata)
    for spec in plugins.chat_templates:
        named = [
            key for key, words in names.items() if spec.model_names and re.search(spec.model_names, words)
        ]
        if named:
            yield spec, f"{named[0]} is {metadata[named[0]]!r}."
        elif statement and spec.tokens and tokenizer.control_texts.issuperset(spec.tokens):
            yield spec, f"{statement}, and its vocabulary has the control tokens {', '.join(spec.tokens)}."


def _made_for_chats(metadata: Mapping[str, Any]) -> str | None:
    """Where the file says that its model was trained for chats; None if it does not."""
    for key in NAME_KEYS:
        name = metadata.get(key)
        if isinstance(name, str) and CHAT_WORDS.intersection(_words(name).split("-")):
            return f"{key} is {name!r}"
    tags = metadata.get("general.tags")
    if isinstance(tags, list) and (found := sorted(CHAT_TAGS.intersection(filter(_is_text, tags)))):
        return f"general.tags has {found[0]!r}"
    return None


def _why_none(metadata: Mapping[str, Any], matches: list[str]) -> str:
    if matches:
        return f"its file carries none and fits several families: {', '.join(matches)}."
    if statement := _made_for_chats(metadata):
        return f"its file carries none, and although {statement}, no family of templates fits it."
    return "its file carries none and does not say that the model was trained for chats."


def _ends_of_turn(template: ChatTemplate, tokenizer: Tokenizer) -> frozenset[int]:
    """The control token that the template writes right after an answer, if it does.

    Raises TemplateLimitError where a short chat is too much for the template.
    """
    answer = "4211"
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]
    try:
        text = template.render(messages, add_generation_prompt=False)
    except TemplateLimitError:
        raise
    except TemplateError:  # it wants other messages; the tokenizer's own stop ids remain
        return frozenset()
    _, found, after = text.rpartition(answer)
    ids = tokenizer.encode(after.lstrip(), add_special=False, parse_special=True)[:1] if found else []
    return frozenset(token for token in ids if tokenizer.token_text(token) in tokenizer.control_texts)


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def _is_text(value: object) -> bool:
    return isinstance(value, str)
