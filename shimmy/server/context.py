"""What an API frontend is, and what it may use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from shimmy.discovery.places import adapter_places
from shimmy.errors import AdapterError, ModelError, ModelNotFoundError, RequestError
from shimmy.server.generation import GenerationRequest, Piece, generate
from shimmy.server.mixed import Lora, check_mixture
from shimmy.server.preload import DefaultModel
from shimmy.server.registered import RegisteredAdapters, no_such_adapter

if TYPE_CHECKING:
    from quart import Blueprint

    from shimmy.discovery.catalog import Catalog, ModelCard
    from shimmy.engine.launch import Workers
    from shimmy.errors import ShimmyError
    from shimmy.hooks import Plugins
    from shimmy.server.models import ModelPool
    from shimmy.server.served import ServedModel
    from shimmy.settings import Settings


#: Adapters to mix, each with a factor.
Mixed: TypeAlias = "tuple[tuple[ModelCard, float], ...]"


class Frontend(Protocol):
    """An API: the routes it serves and the shape of its errors. One object serves one app."""

    def blueprint(self, context: ServerContext) -> Blueprint:
        """The routes. Handlers raise :class:`ShimmyError`; the app turns it into a response."""
        ...

    def error_body(self, error: ShimmyError) -> Any:
        """The JSON a client of this API expects for an error; the status is ``error.status``."""
        ...

    def example(self, url: str, model: ServedModel) -> str | None:
        """A command to paste into a terminal that asks ``model`` something; None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The server, as frontends and hooks see it."""

    settings: Settings
    plugins: Plugins
    catalog: Catalog
    models: ModelPool
    default: DefaultModel = field(default_factory=DefaultModel)
    adapters: RegisteredAdapters = field(default_factory=RegisteredAdapters)
    """Those that clients have loaded."""

    async def find_model(self, name: str | None) -> ModelCard:
        """The model of this name, the default one for None.

        One that is loaded is found without its file, which may be gone by now.

        Raises:
            ModelNotFoundError: no model has this name, or there is none at all.
        """
        # In a thread: the first look reads folders and files.
        return await asyncio.to_thread(self._find_model, name)

    async def list_models(self) -> list[ModelCard]:
        """All models there are, loaded or not."""
        cards = {card.name: card for card in await asyncio.to_thread(self.catalog.models)}
        cards |= {card.name: card for card in (*self.models.cards(), *self.adapters.cards())}
        return sorted(cards.values(), key=lambda card: card.name)

    async def aliases(self, models: Iterable[ModelCard]) -> dict[str, list[str]]:
        """What else each of these models answers to, by its name."""
        return await asyncio.to_thread(self._aliases, list(models))

    async def own_names(self) -> dict[str, ModelCard]:
        """The names of the user's own making for models, each with the model's card."""
        return await asyncio.to_thread(self.catalog.own_names)

    async def list_adapters(self) -> dict[int, ModelCard]:
        """All adapters there are, as cards of their bases with them, by number."""
        return self.adapters.numbered(card for card in await self.list_models() if card.adapter is not None)

    async def find_adapters(self, model: ModelCard, wanted: Iterable[Lora] | None) -> Mixed | None:
        """The adapters that a request for a model names, each with its factor; None: it does not say.

        Raises:
            ModelNotFoundError: there is no model of a name.
            RequestError: there is no adapter of a number, or one is of another base, or named twice.
        """
        if wanted is None:
            return None
        mixed = [(await self._find_adapter(each), each.scale) for each in wanted]
        check_mixture(model, [card for card, _ in mixed])
        return tuple((card, scale) for card, scale in mixed if scale)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece, None]:
        """Run a request; see :func:`shimmy.server.generation.generate`."""
        if request.mixed is None and request.card.adapter is None:
            request = replace(request, mixed=await self._everywhere(request.card))
        async with aclosing(generate(request, self.models, self.plugins)) as pieces:
            async for piece in pieces:
                yield piece

    async def _everywhere(self, model: ModelCard) -> Mixed:
        """What applies to requests for a base that do not say. An adapter that is gone loses its factor."""
        mixed = []
        for name, scale in list(self.adapters.scales.items()):
            try:
                card = await self.find_model(name)
                if card.base is not None and card.base.name == model.name:
                    await self.models.load(card)
                    mixed.append((card, scale))
            except (AdapterError, ModelNotFoundError) as error:
                self.adapters.drop_scale(name, error)
        return tuple(mixed)

    async def _find_adapter(self, wanted: Lora) -> ModelCard:
        if (wanted.name is None) == (wanted.id is None):
            raise RequestError("each adapter in lora needs a name or an id, one of them.", param="lora")
        if wanted.name is not None:
            return await self.find_model(wanted.name)
        assert wanted.id is not None
        cards = await self.list_adapters()
        if wanted.id not in cards:
            raise no_such_adapter(wanted.id, cards, "lora")
        return cards[wanted.id]

    def _aliases(self, models: list[ModelCard]) -> dict[str, list[str]]:
        aliases: dict[str, list[str]] = {}
        for card in models:
            aliases[card.name] = []
            if self.adapters.find(card.name) is None:
                with suppress(ModelError, ModelNotFoundError):  # its files are gone
                    aliases[card.name] = self.catalog.aliases(card.name)
        return aliases

    def _find_model(self, name: str | None) -> ModelCard:
        if name is not None and (registered := self.adapters.find(name)):
            return registered
        known = self.catalog.target(name) or self.default.name
        if known and (model := self.models.loaded(known)):
            return model.card
        return self.catalog.default() if name is None else self.catalog.get(name)


def create_context(settings: Settings, plugins: Plugins, workers: Workers | None = None) -> ServerContext:
    """The context of a server of its own: a catalog of what is there, nothing loaded yet.

    Engines get their processes from ``workers``, which may have one ready.
    """
    from shimmy.discovery.catalog import Catalog
    from shimmy.engine.client import EngineClient
    from shimmy.engine.settings import EngineSettings
    from shimmy.server.adapters import AdapterPool
    from shimmy.server.models import ModelPool
    from shimmy.server.text import read_text

    engine = EngineSettings.of(settings)
    models = ModelPool(
        plugins,
        max_loaded=settings.max_loaded_models,
        make_engine=lambda card: EngineClient(card.name, card.path, engine, workers),
        read_text=lambda card: read_text(card, settings, plugins),
        adapters=AdapterPool(
            most=settings.max_adapters,
            memory=settings.lora_memory,
            read_text=lambda card, base: read_text(card, settings, plugins, base),
        ),
    )
    registered = RegisteredAdapters(adapter_roots(settings))
    return ServerContext(settings, plugins, Catalog(settings, plugins), models, adapters=registered)


def adapter_roots(settings: Settings) -> list[Path]:
    """Folders below which clients may name adapters: those where adapters are searched for."""
    roots = [path for path in adapter_places(settings) if not path.is_file()]
    if (adapter := settings.lora_gguf) is not None:
        roots.append(adapter if adapter.is_dir() else adapter.parent)
    return roots
