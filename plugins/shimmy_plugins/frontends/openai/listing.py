"""Models as OpenAI lists them, with a few facts its clients ignore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shimmy.discovery.catalog import ModelCard
from shimmy.server.served import ServedModel


def model_list(
    cards: Iterable[ModelCard], own: Mapping[str, ModelCard], aliases: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The answer of GET /v1/models. Looks at each file: call it in a thread.

    Args:
        own: models by further names that the user has given them.
        aliases: what else models answer to.
    """
    rows = [model_object(card, aliases[card.name]) for card in cards]
    return {"object": "list", "data": rows + [model_object(c, []) | {"id": name} for name, c in own.items()]}


def model_object(card: ModelCard, aliases: list[str]) -> dict[str, Any]:
    """A model; ``created`` is when its file was written."""
    return {
        "id": card.name,
        "object": "model",
        "created": _written(card),
        "owned_by": card.source,
        # As vLLM tells of adapters.
        "parent": card.base.name if card.base else None,
        "aliases": aliases,
        "architecture": card.architecture,
        "quantization": card.quantization,
        "parameters": card.parameters,
        "size_bytes": card.size_bytes,
        "context_length": card.context_length,
    }


def loaded_facts(model: ServedModel | None) -> dict[str, Any]:
    """What is known of a model only while it is loaded, else null."""
    if model is None:
        return {"context": None, "sampling_defaults": None, "chat_template": None}
    chat = model.text.chat
    return {
        "context": model.facts.context,
        "sampling_defaults": model.text.sampling,
        "chat_template": {"name": chat.name, "reason": chat.reason},
    }


def _written(card: ModelCard) -> int:
    try:
        return int(card.path.stat().st_mtime)
    except OSError:
        return 0
