"""What an API frontend is, and what it may use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from shimmy.server.generation import GenerationRequest, Piece, generate
from shimmy.server.preload import DefaultModel

if TYPE_CHECKING:
    from quart import Blueprint

    from shimmy.discovery.catalog import Catalog, ModelCard
    from shimmy.engine.launch import Workers
    from shimmy.errors import ShimmyError
    from shimmy.hooks import Plugins
    from shimmy.server.models import ModelPool, ServedModel
    from shimmy.settings import Settings


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
        cards |= {card.name: card for card in self.models.cards()}
        return sorted(cards.values(), key=lambda card: card.name)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece, None]:
        """Run a request; see :func:`shimmy.server.generation.generate`."""
        return generate(request, self.models, self.plugins)

    def _find_model(self, name: str | None) -> ModelCard:
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
    from shimmy.engine.protocol import EngineSettings
    from shimmy.server.models import ModelPool
    from shimmy.server.text import read_text

    engine = EngineSettings.of(settings)
    models = ModelPool(
        plugins,
        max_loaded=settings.max_loaded_models,
        make_engine=lambda card: EngineClient(card.name, card.path, engine, workers),
        read_text=lambda card: read_text(card, settings, plugins),
    )
    return ServerContext(settings, plugins, Catalog(settings, plugins), models)
