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

_REPLACE = 'Take another name; "load_inplace": true replaces an adapter.'


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
    try:
        known = await context.find_model(name)
    except ModelNotFoundError:
        if (model := await _model_before_colon(context, name)) is not None:
            problem = f"{name!r} would be another name of an adapter of the model {model!r}."
            raise _refused(problem, "Take a name that begins otherwise.") from None
    except ModelError as error:
        # A broken adapter may be replaced like others.
        if not (isinstance(error, AdapterError) and wanted.replaces):
            raise _refused(f"{name!r} is the name of something already: {error.message}", _REPLACE) from error
    else:
        if known.name != name:
            raise _refused(f"{name!r} is another name of {known.name!r}.", "Take another one.")
        if known.adapter is None:
            raise _refused(f"there is a model {name!r} already.", "Take another name.")
        if not wanted.replaces:
            raise _refused(f"there is an adapter {name!r} already.", _REPLACE)


def _refused(problem: str, hint: str) -> RequestError:
    return RequestError(problem, hint=hint, param="lora_name")


async def _model_before_colon(context: ServerContext, name: str) -> str | None:
    """The model that ``MODEL:…`` begins with, as adapters of it are called as well."""
    for colon in re.finditer(":", name):
        try:
            return (await context.find_model(name[: colon.start()])).name
        except (ModelError, ModelNotFoundError):
            continue
    return None
