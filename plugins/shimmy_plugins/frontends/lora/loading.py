"""Load an adapter under a name that means nothing else."""

from __future__ import annotations

import asyncio
import re

from shimmy.errors import AdapterError, ModelError, ModelNotFoundError, RequestError
from shimmy.gguf.card import ModelCard
from shimmy.lora.pairing import check_base
from shimmy.lora.read import read_adapter
from shimmy.server.context import ServerContext
from shimmy_plugins.frontends.lora.schema import LoadRequest


async def load_adapter(context: ServerContext, wanted: LoadRequest) -> ModelCard:
    """Load an adapter and make its name known; running requests of a replaced one keep it.

    Raises:
        RequestError: the name is taken, or the path lies outside the configured folders.
        AdapterError: it cannot be used with the base.
    """
    async with context.adapters.loading:
        base = await context.find_model(wanted.base_model_name)
        card = context.adapters.card(wanted.lora_name, wanted.lora_path, base)
        await _check_name(context, wanted)
        try:
            await context.models.replace_adapter(card)
        except AdapterError:
            await asyncio.to_thread(_check_base, context, card)
            raise
        context.adapters.add(card)
        return card


def _check_base(context: ServerContext, card: ModelCard) -> None:
    """Raise AdapterError, with the models that it would fit, if an adapter is for another base."""
    assert card.adapter is not None
    assert card.base is not None
    try:
        adapter = read_adapter(card.adapter, context.plugins.quant_types)
    except ModelError:
        return  # that much is known
    check_base(adapter, card.base, context.catalog.candidates)


async def _check_name(context: ServerContext, wanted: LoadRequest) -> None:
    """Raise RequestError if the name means something else, or what may not be replaced."""
    name = wanted.lora_name
    known = await _known(context, name)
    if known is not None and known.name != name:
        problem, hint = f"{name!r} is another name of {known.name!r}.", "Take another one."
    elif known is not None and known.adapter is None:
        problem, hint = f"there is a model {name!r} already.", "Take another name."
    elif known is not None and not wanted.replaces:
        problem = f"there is an adapter {name!r} already."
        hint = 'Take another name, or send "load_inplace": true to replace it.'
    elif model := await _model_before_colon(context, name):
        problem = f"{name!r} would be another name of an adapter of the model {model!r}."
        hint = "Take a name that begins otherwise."
    else:
        return
    raise RequestError(problem, hint=hint, param="lora_name")


async def _model_before_colon(context: ServerContext, name: str) -> str | None:
    """The model that ``MODEL:…`` begins with, as adapters of it are called as well."""
    heads = [name[: match.start()] for match in re.finditer(":", name)]
    for head in heads:
        if (known := await _known(context, head)) is not None:
            return known.name
    return None


async def _known(context: ServerContext, name: str) -> ModelCard | None:
    """What the server knows by this name, be it of use or not.

    Raises:
        RequestError: something that cannot be used has it.
    """
    try:
        return await context.find_model(name)
    except ModelNotFoundError:
        return None
    except ModelError as error:
        raise RequestError(
            f"{name!r} is already the name of something else: {error.message}",
            hint="Take another name.",
            param="lora_name",
        ) from error
