"""The routes. They change what everyone's requests mean, so they are for this machine and the admin key."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from quart import Blueprint, Response, request

from shimmy.engine.protocol import MOST_MIXED
from shimmy.errors import RequestError, ShimmyError
from shimmy.gguf.card import ModelCard
from shimmy.server.admin import check_admin, is_admin
from shimmy.server.body import read_object, read_request
from shimmy.server.context import ServerContext
from shimmy.server.registered import RegisteredAdapters, no_such_adapter
from shimmy.server.reply import json_response
from shimmy.server.served import ServedModel
from shimmy_plugins.frontends.lora.loading import load_adapter
from shimmy_plugins.frontends.lora.schema import (
    LOAD_RULES,
    UNLOAD_RULES,
    LoadRequest,
    ScaleRequest,
    UnloadRequest,
)
from shimmy_plugins.frontends.openai.errors import error_body


class LoraFrontend:
    """Adapters of one server."""

    def blueprint(self, context: ServerContext) -> Blueprint:
        routes = Blueprint("lora", __name__)

        @routes.post("/v1/load_lora_adapter")
        async def load() -> Response:
            check_admin(request, context.settings)
            wanted = read_request(
                read_object(await _data()), LoadRequest, LOAD_RULES, strict=context.settings.strict
            ).request
            card = await load_adapter(context, wanted)
            # vLLM answers with a text; a client that looks for more finds it here.
            return json_response({"message": f"Success: LoRA adapter {card.name!r} added.", **_row(card)})

        @routes.post("/v1/unload_lora_adapter")
        async def unload() -> Response:
            check_admin(request, context.settings)
            wanted = read_request(
                read_object(await _data()), UnloadRequest, UNLOAD_RULES, strict=context.settings.strict
            ).request
            card = context.adapters.remove(wanted.lora_name)
            context.models.adapters.retire(card)
            return json_response({"message": f"Success: LoRA adapter {card.name!r} removed."})

        @routes.get("/lora-adapters")
        async def listing() -> Response:
            cards, known = await context.list_adapters(), context.adapters
            rows = [{"id": i, **_row(card), **_applied(known, card)} for i, card in cards.items()]
            in_full = is_admin(request.scope, context.settings)
            return json_response(rows if in_full else [_public(row) for row in rows])

        @routes.post("/lora-adapters")
        async def set_scales() -> Response:
            check_admin(request, context.settings)
            cards = await context.list_adapters()
            context.adapters.set_scales(_scales(await _data(), cards, context.settings.max_adapters))
            return json_response({"success": True})

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return error_body(error)

    def example(self, url: str, model: ServedModel) -> str | None:  # noqa: ARG002
        return None


def _scales(data: bytes, cards: dict[int, ModelCard], most: int) -> dict[str, float]:
    """Factors by adapter; those that are not named have none."""
    try:
        wanted = msgspec.json.decode(data, type=list[ScaleRequest])
    except msgspec.DecodeError as error:
        problem = f"expected a list of objects with id and scale ({error})."
        raise RequestError(problem) from None
    for row in wanted:
        if row.id not in cards:
            raise no_such_adapter(row.id, cards, "id")
    applied = {cards[row.id]: row.scale for row in wanted if row.scale}
    bases, most = Counter(card.base for card in applied), min(most, MOST_MIXED)
    if bases and max(bases.values()) > most:
        raise RequestError(
            f"{max(bases.values())} adapters of one model get a factor, but at most {most} can be mixed.",
            param="scale",
        )
    return {card.name: scale for card, scale in applied.items()}


def _row(card: ModelCard) -> dict[str, Any]:
    base = card.base.name if card.base else None
    return {"name": card.name, "path": str(card.adapter), "base": base}


def _applied(known: RegisteredAdapters, card: ModelCard) -> dict[str, Any]:
    """How strongly it applies to requests that do not say, and why no longer, if it cannot be used."""
    row: dict[str, Any] = {"scale": known.scales.get(card.name, 0.0)}
    return row | ({"error": known.problems[card.name]} if card.name in known.problems else {})


def _public(row: dict[str, Any]) -> dict[str, Any]:
    """A row for clients who need not know how the server's folders are called."""
    shown = {name: value for name, value in row.items() if name != "error"}
    return {**shown, "path": Path(row["path"]).name}


async def _data() -> bytes:
    data = await request.get_data()
    assert isinstance(data, bytes)
    return data
