"""The routes. They change what everyone's requests mean, so they are for this machine and the admin key."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Blueprint, Response, request

from shimmy.errors import ModelNotFoundError, RequestError, ShimmyError
from shimmy.gguf.card import ModelCard
from shimmy.server.admin import check_admin
from shimmy.server.body import read_object, read_request
from shimmy.server.context import ServerContext
from shimmy.server.reply import json_response
from shimmy.server.served import ServedModel
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
            context.models.adapters.retire(card.name)
            return json_response({"message": f"Success: LoRA adapter {card.name!r} removed."})

        @routes.get("/lora-adapters")
        async def listing() -> Response:
            cards = await context.list_adapters()
            scales = context.adapters.scales
            return json_response(
                [{"id": i, **_row(card), "scale": scales.get(card.name, 0.0)} for i, card in cards.items()]
            )

        @routes.post("/lora-adapters")
        async def set_scales() -> Response:
            check_admin(request, context.settings)
            cards = await context.list_adapters()
            context.adapters.scales = _scales(await _data(), cards)
            return json_response({"success": True})

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return error_body(error)

    def example(self, url: str, model: ServedModel) -> str | None:  # noqa: ARG002
        return None


async def load_adapter(context: ServerContext, wanted: LoadRequest) -> ModelCard:
    """Load an adapter and make its name known; running requests of a replaced one keep it.

    Raises:
        RequestError: the name is taken, or the path lies outside the configured folders.
        AdapterError: it cannot be used with the base.
    """
    base = await context.find_model(wanted.base_model_name)
    taken = await _known(context, wanted.lora_name)
    if taken is not None and not (wanted.replaces and taken.adapter is not None):
        raise RequestError(
            f"there is {'a model' if taken.adapter is None else 'an adapter'} {wanted.lora_name!r} already.",
            hint='Take another name; "load_inplace": true replaces an adapter, but no model.',
            param="lora_name",
        )
    card = context.adapters.card(wanted.lora_name, wanted.lora_path, base)
    await context.models.replace_adapter(card)
    context.adapters.add(card)
    return card


async def _known(context: ServerContext, name: str) -> ModelCard | None:
    """What the server knows by this name."""
    try:
        return await context.find_model(name)
    except ModelNotFoundError:
        return None


def _scales(data: bytes, cards: dict[int, ModelCard]) -> dict[str, float]:
    """Factors by adapter; those that are not named have none."""
    try:
        wanted = msgspec.json.decode(data, type=list[ScaleRequest])
    except msgspec.DecodeError as error:
        problem = f"expected a list of objects with id and scale ({error})."
        raise RequestError(problem) from None
    unknown = [row.id for row in wanted if row.id not in cards]
    if unknown:
        raise RequestError(
            f"there is no adapter with id {unknown[0]}.", hint="GET /lora-adapters lists them.", param="id"
        )
    return {cards[row.id].name: row.scale for row in wanted if row.scale}


def _row(card: ModelCard) -> dict[str, Any]:
    base = card.base.name if card.base else None
    return {"name": card.name, "path": str(card.adapter), "base": base}


async def _data() -> bytes:
    data = await request.get_data()
    assert isinstance(data, bytes)
    return data
