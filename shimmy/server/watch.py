"""The setting ``watch``: what trainers write while the server runs is taken once it is complete.

Requests that are being answered keep what they began with. What cannot be used is told in the log, once,
and the version before stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.discovery.changes import Look, Settling, look_at, newest
from shimmy.discovery.places import adapter_places
from shimmy.discovery.records import Skipped
from shimmy.errors import AdapterError, ModelError, ModelNotFoundError, ShimmyError
from shimmy.server.errors import internal_error

if TYPE_CHECKING:
    from quart import Quart

    from shimmy.discovery.catalog import ModelCard
    from shimmy.discovery.survey import Survey
    from shimmy.server.adapters import Version
    from shimmy.server.context import ServerContext
    from shimmy.settings import Settings

#: Seconds between two looks at the folders, or so many times what a look takes, if that is more.
PAUSE_SECONDS = 1.0
_LOOK_SHARE = 20
#: Seconds in which nothing may change until a place counts as written.
SETTLE_SECONDS = 2.0
#: What has changed within so many seconds before the first look may be half-written.
_RECENT_SECONDS = 10.0
_UNDER_WAY = "it is being written; it is taken when that has ended."

_log = logging.getLogger(__name__)


def watch(app: Quart, context: ServerContext) -> None:
    """Watch while ``app`` is served."""

    @app.while_serving
    async def _() -> AsyncGenerator[None, None]:
        watching = asyncio.create_task(Watcher(context).run(), name="watch")
        yield
        watching.cancel()


def watched_places(settings: Settings) -> list[Path]:
    """The adapter and the folders that the settings name for models and adapters; they need not exist."""
    places = [path.absolute() for path in adapter_places(settings)]
    if settings.lora_gguf is not None:
        places.append(_folder(settings.lora_gguf.absolute()))
    return places


class Watcher:
    """Looks again and again at the folders that the settings name, and at those of adapters in use.

    Args:
        pause: seconds between two looks.
        settle: seconds in which nothing may change until a place counts as written.
    """

    def __init__(
        self, context: ServerContext, *, pause: float = PAUSE_SECONDS, settle: float = SETTLE_SECONDS
    ) -> None:
        self._context = context
        self._pause = pause
        self._settle = settle
        self._places = watched_places(context.settings)
        self._met: set[Path] = set()
        """Those of the places that have been there."""
        self._settling: Settling | None = None
        self._due: set[Path] = set()
        """What has settled, and is not taken yet."""
        self._refused: dict[Path, str] = {}
        """What was of no use, with the reason, until it changes."""

    async def run(self) -> None:
        """Until cancelled."""
        problem = ""
        while True:
            started = time.monotonic()
            look = await asyncio.to_thread(self._look)
            seconds = time.monotonic() - started
            try:
                await self._consider(look)
                problem = ""
            except ShimmyError as error:
                if problem != (problem := str(error)):
                    _log.warning("watch: nothing new is taken: %s", error)
            except Exception as error:  # sources are plugins; a watch that ends unnoticed helps nobody
                internal_error(error, "watching")
            await asyncio.sleep(max(self._pause, _LOOK_SHARE * seconds))

    def _look(self) -> Look | None:
        """None while a folder that was there is not: a network drive that is away changes nothing."""
        self._met.update(place for place in self._places if place.exists())
        loaded = map(_place, self._context.adapters.cards())
        try:
            return look_at([*self._met, *(place for place in loaded if place.exists())])
        except OSError as error:
            _log.debug("watch: %s", error)
            return None

    async def _consider(self, look: Look | None) -> None:
        if look is None:
            return
        if self._settling is None:
            # Now, so that it is known how they were should they change.
            await asyncio.to_thread(self._context.catalog.adapters)
            old = time.time_ns() - int(_RECENT_SECONDS * 1e9)
            known = {place: state for place, state in look.items() if newest(state) < old}
            self._settling = Settling(self._settle, known)
        # If taking it fails as a whole, it is due again.
        self._due |= self._settling.update(look, time.monotonic())
        has_strays = await asyncio.to_thread(self._has_strays)
        if self._due or has_strays:
            await self._take(self._due, dict.fromkeys(self._settling.unsettled, _UNDER_WAY))
            self._due = set()

    def _has_strays(self) -> bool:
        """Whether an adapter is loaded that its name no longer means, for a request that came before."""
        return any(
            (version := self._loaded(name)) and _place(version.card) != _place(found)
            for name, found in self._context.catalog.adapters().items()
        )

    async def _take(self, settled: set[Path], unsettled: Mapping[Path, str]) -> None:
        """Make known what has settled, but what turns out to be of no use."""
        catalog = self._context.catalog
        for place in settled:
            self._refused.pop(place, None)
        changed = set(settled)
        for card in self._context.adapters.cards():
            if _place(card) in changed and (problem := await self._replace(card)):
                _log.warning("watch: %s is not taken: %s", card.name, problem)
        while True:
            survey = await asyncio.to_thread(catalog.survey, {**unsettled, **self._refused})
            if not (refused := await self._try_adapters(survey, changed)):
                break
            self._refused |= refused
        before = await asyncio.to_thread(catalog.names)
        catalog.publish(survey)
        await self._follow(before, survey, settled)

    async def _try_adapters(self, survey: Survey, changed: set[Path]) -> dict[Path, str]:
        """Replace loaded adapters that are other ones in a survey; those to be held back, with the reason.

        What is dealt with leaves ``changed``.
        """
        before = await asyncio.to_thread(self._context.catalog.adapters)
        held: dict[Path, str] = {}
        for name, found in (await asyncio.to_thread(survey.adapters)).items():
            place = _place(found)
            if isinstance(found, Skipped):
                problem = found.reason if place in changed else None
            elif (version := self._loaded(name)) and (_place(version.card) != place or place in changed):
                problem = await self._replace(found)
            else:
                problem = None
            changed.discard(place)
            if problem is not None:
                _log.warning("watch: %s is not taken: %s", name, problem)
                if not isinstance(before.get(name), Skipped | None):
                    held[place] = problem
        return held

    def _loaded(self, name: str) -> Version | None:
        """The version in use of an adapter that is the catalog's, not a client's own."""
        return None if self._context.adapters.find(name) else self._context.models.adapters.loaded(name)

    async def _replace(self, card: ModelCard) -> str | None:
        """Give a loaded adapter its new version; why that failed, or None."""
        if self._context.models.adapters.loaded(card.name) is None:
            return None
        try:
            await self._context.models.replace_adapter(card)
        except ShimmyError as error:
            return str(error)
        _log.info("watch: %s has a new version: %s", card.name, card.adapter)
        return None

    async def _follow(self, before: list[str], survey: Survey, settled: set[Path]) -> None:
        """What a new survey means for what is loaded."""
        after = survey.names()
        for name in sorted({*after} - {*before}):
            _log.info("watch: %s is new.", name)
        for name in sorted({*before} - {*after}):
            _log.info("watch: %s is gone.", name)
            self._context.models.adapters.end(name)
        models, default = self._context.models, self._context.default
        unloaded = False
        for card in models.cards():
            if reason := await asyncio.to_thread(self._outdated, card, survey, settled):
                await models.unload(card.name, reason)
                unloaded = True
        if default.error is not None or (unloaded and not models.cards()):
            try:
                await default.load(self._context)
            except ShimmyError as error:
                _log.debug("watch: no default model: %s", error)

    def _outdated(self, card: ModelCard, survey: Survey, settled: set[Path]) -> str | None:
        """Why a loaded model must go; None if its name still means it, or something broken."""
        found = survey.models.get(card.name)
        if found is None:
            return None if card.path.exists() else "its files are gone"
        if found.path == card.path and card.path not in settled:
            return None
        try:
            self._context.catalog.get(card.name)
        except (ModelError, ModelNotFoundError) as error:
            _log.warning("watch: %s is not taken: %s", card.name, error)
            return None
        return "its files have changed"


def _place(found: ModelCard | Skipped) -> Path:
    """Where an adapter lies."""
    place = found.path if isinstance(found, Skipped) else found.adapter
    assert place is not None
    return _folder(place)


def _folder(adapter: Path) -> Path:
    """The folder of an adapter, its GGUF file, or what does not exist yet, whichever ``adapter`` names."""
    from shimmy.lora.read import adapter_place

    try:
        return adapter_place(adapter)
    except AdapterError:
        return adapter
