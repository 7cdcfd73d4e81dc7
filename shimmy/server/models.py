"""The model pool: which models are loaded, who uses them, and which one has to go."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.errors import ShimmyError
from shimmy.events import ModelLoaded, ModelUnloaded
from shimmy.server.adapters import AdapterPool, Version
from shimmy.server.errors import StoppingError, internal_error
from shimmy.server.served import Engine, ServedModel

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard
    from shimmy.engine.protocol import Progress, Ready, Stats
    from shimmy.hooks import Plugins
    from shimmy.server.text import ModelText

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the pool knows of one model.

    ``state`` is queued or the engine's; ``error`` is why it failed, or fails to come back;
    ``path`` its file, which may be gone while it is served.
    """

    name: str
    state: str
    progress: Progress | None = None
    stats: Stats | None = None
    facts: Ready | None = None
    error: ShimmyError | None = None
    path: Path | None = None


@dataclass(slots=True, eq=False)
class _Slot:
    """A model on its way in, loaded, or on its way out."""

    card: ModelCard
    engine: Engine
    loading: asyncio.Task[ServedModel]
    last_used: int
    admitted: bool = False
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class ModelPool:
    """Loads models when they are asked for, at most ``max_loaded`` at a time.

    Concurrent requests share one load. When there is no room, the model unused for longest goes,
    after the requests it is answering; whoever asks for it from then on waits for its next load.

    Args:
        make_engine: an engine for this model, not started yet.
        read_text: the model's text side; called in a thread, beside the engine's start.
        adapters: those of the models.
    """

    def __init__(
        self,
        plugins: Plugins,
        *,
        max_loaded: int,
        make_engine: Callable[[ModelCard], Engine],
        read_text: Callable[[ModelCard], ModelText],
        adapters: AdapterPool,
    ) -> None:
        self._plugins = plugins
        self.adapters = adapters
        self._max_loaded = max_loaded
        self._make_engine = make_engine
        self._read_text = read_text
        self._slots: dict[str, _Slot] = {}
        self._retired: set[_Slot] = set()
        self._failures: dict[str, ShimmyError] = {}
        self._room = asyncio.Lock()
        self._clock = itertools.count()
        self.reading = asyncio.Event()
        """Cleared while no text side is to be read: it would hold up what else this process does."""
        self.reading.set()
        self.stops = asyncio.Event()
        """Set when the server ends."""

    @property
    def stopping(self) -> bool:
        """Whether new requests are refused because the server ends."""
        return self.stops.is_set()

    def loaded(self, name: str) -> ServedModel | None:
        """The model of this name if it is ready, without loading it; perhaps one with an adapter."""
        slot = self._slots.get(name)
        if slot and _is_loaded(slot):
            return slot.loading.result()
        version = self.adapters.loaded(name)
        base = version and version.card.base and self.loaded(version.card.base.name)
        return _adapted(base, version) if base and version else None

    def cards(self) -> list[ModelCard]:
        """The cards of all models that are ready, as they are without adapters."""
        return [slot.card for slot in self._slots.values() if _is_loaded(slot)]

    async def load(self, card: ModelCard) -> ServedModel:
        """The model, loaded now if it is not yet. Raises what made loading fail."""
        async with self.use(card) as model:
            return model

    @asynccontextmanager
    async def use(
        self, card: ModelCard, mixed: Sequence[tuple[ModelCard, float]] = ()
    ) -> AsyncIterator[ServedModel]:
        """The model, loaded if need be, kept loaded inside the block.

        ``mixed`` are further adapters of the same base (:func:`shimmy.server.mixed.check_mixture`), each with
        a factor. Raises what made loading fail.
        """
        own = [card] if card.base is not None else []
        cards = [*own, *(other for other, _ in mixed)]
        async with self._use(card.base or card) as model, self.adapters.use(model, cards) as versions:
            if own:
                model = _adapted(model, versions[0])
            for version, (_, factor) in zip(versions[len(own) :], mixed, strict=True):
                model = replace(model, adapters=(*model.adapters, (version.facts.id, factor)))
            yield model

    async def replace_adapter(self, card: ModelCard) -> None:
        """Read an adapter anew, its base first if need be. Raises what made that fail."""
        async with self._use(card.base or card) as model:
            await self.adapters.replace(model, card)

    @asynccontextmanager
    async def _use(self, card: ModelCard) -> AsyncIterator[ServedModel]:
        if self.stopping:
            raise StoppingError
        slot = self._slots.get(card.name) or self._add(card)
        slot.users += 1
        slot.idle.clear()
        slot.last_used = next(self._clock)
        try:
            yield await _loaded(slot)
        finally:
            slot.users -= 1
            if not slot.users:
                slot.idle.set()

    async def unload(self, name: str, reason: str) -> None:
        """End a model's engine after the requests it is answering; nothing if it is not loaded."""
        if slot := self._slots.get(name):
            await self._retire(slot, reason)

    def states(self) -> list[ModelState]:
        """Every model that is loaded, being loaded, or failed to load."""
        states = [_state(slot) for slot in self._slots.values()]
        failed = (ModelState(name, "failed", error=error) for name, error in self._failures.items())
        return states + [state for state in failed if state.name not in self._slots]

    async def drain(self, seconds: float) -> None:
        """Refuse new requests and give the running ones some time to end."""
        self.stops.set()
        waits = [slot.idle.wait() for slot in (*self._slots.values(), *self._retired) if slot.users]
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waits), seconds)

    async def close(self) -> None:
        """End all engines at once, whatever they are doing."""
        self.stops.set()
        ending = list(self._slots.values())
        slots = (*ending, *self._retired)
        for slot in slots:
            slot.loading.cancel()
        self._slots.clear()
        await asyncio.gather(*(slot.engine.close() for slot in slots))
        await asyncio.gather(*(slot.loading for slot in slots), return_exceptions=True)
        for slot in ending:
            self._report_unloaded(slot, "the server stops")

    def _add(self, card: ModelCard) -> _Slot:
        engine = self._make_engine(card)
        loading = asyncio.create_task(self._load(card), name=f"load {card.name}")
        # Retrieved here, so that a failure nobody waits for any more does not warn.
        loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        slot = self._slots[card.name] = _Slot(card, engine, loading, next(self._clock))
        slot.idle.set()
        return slot

    async def _load(self, card: ModelCard) -> ServedModel:
        slot = self._slots[card.name]
        try:
            async with self._room:
                await self._make_room()
                slot.admitted = True
            facts, text = await asyncio.gather(slot.engine.start(), self._read(card))
        except BaseException as error:
            if self._slots.get(card.name) is slot:
                del self._slots[card.name]
            await slot.engine.close()
            if not isinstance(error, Exception):
                raise
            known = error if isinstance(error, ShimmyError) else internal_error(error, f"loading {card.name}")
            _log.error("model %s cannot be loaded: %s", card.name, known)
            self._failures[card.name] = known
            raise known from error
        self._failures.pop(card.name, None)
        self._plugins.model_loaded(
            ModelLoaded(
                card.name, facts.architecture, facts.backend, facts.precision, facts.context, facts.seconds
            )
        )
        return ServedModel(card, text, slot.engine, facts)

    async def _read(self, card: ModelCard) -> ModelText:
        await self.reading.wait()
        return await asyncio.to_thread(self._read_text, card)

    async def _make_room(self) -> None:
        """Retire models until one more may be loaded; prefers idle ones, then the longest unused."""
        while len(admitted := [slot for slot in self._slots.values() if slot.admitted]) >= self._max_loaded:
            victim = min(admitted, key=lambda slot: (slot.users > 0, slot.last_used))
            await self._retire(victim, "another model needs the room")

    async def _retire(self, slot: _Slot, reason: str) -> None:
        # Out of the table first: new requests for it queue for a new load instead of keeping it busy.
        del self._slots[slot.card.name]
        self._retired.add(slot)
        try:
            await slot.idle.wait()
            slot.loading.cancel()
            await slot.engine.close()
        finally:
            self._retired.discard(slot)
        self._report_unloaded(slot, reason)

    def _report_unloaded(self, slot: _Slot, reason: str) -> None:
        if _is_loaded(slot):
            self._plugins.model_unloaded(ModelUnloaded(slot.card.name, reason))


def _adapted(base: ServedModel, version: Version) -> ServedModel:
    """The base with one adapter."""
    return replace(base, card=version.card, text=version.text, adapters=((version.facts.id, 1.0),))


def _is_loaded(slot: _Slot) -> bool:
    return slot.loading.done() and not slot.loading.cancelled() and not slot.loading.exception()


async def _loaded(slot: _Slot) -> ServedModel:
    try:
        # Shielded: a client that goes away must not take down the load others wait for.
        return await asyncio.shield(slot.loading)
    except asyncio.CancelledError:
        # The load was ended or the one who waits for it: only the latter shall look cancelled.
        if slot.loading.cancelled():
            raise StoppingError from None
        raise


def _state(slot: _Slot) -> ModelState:
    engine = slot.engine
    state = engine.state if slot.admitted else "queued"
    if state == "ready" and not slot.loading.done():
        state = "loading"  # the engine is ready, the tokenizer is not
    error = None if state == "ready" else engine.error
    return ModelState(
        slot.card.name, state, engine.progress, engine.stats, engine.ready, error, slot.card.path
    )
