"""The adapters of loaded models: read when asked for, replaced while in use, the longest unused first out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shimmy.errors import RequestError

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard
    from shimmy.engine.protocol import AdapterLoaded
    from shimmy.server.served import Engine, ServedModel
    from shimmy.server.text import ModelText


@dataclass(slots=True, eq=False)
class Version:
    """One state of an adapter's files, in the memory of an engine."""

    card: ModelCard
    engine: Engine
    text: ModelText
    facts: AdapterLoaded
    last_used: int
    users: int = 0
    is_current: bool = True
    """Whether new requests get it; one that is not goes with its last user."""

    @property
    def is_loaded(self) -> bool:
        """Whether the engine still has it: one that was started anew has none."""
        return self.facts.id in self.engine.adapters


class AdapterPool:
    """At most ``most`` adapters of a model, ``memory`` bytes together; the longest unused one leaves first.

    Args:
        read_text: the text side of a model with an adapter, given that of its base; called in a thread.
    """

    def __init__(
        self, *, most: int, memory: int, read_text: Callable[[ModelCard, ModelText], ModelText]
    ) -> None:
        self._most = most
        self._memory = memory
        self._read_text = read_text
        self._versions: list[Version] = []
        self._retired: set[str] = set()
        """Names that only requests from before still use."""
        self._loading = asyncio.Lock()
        self._gathering = asyncio.Lock()
        self._freed = asyncio.Event()
        self._clock = itertools.count()

    @asynccontextmanager
    async def use(self, base: ServedModel, card: ModelCard) -> AsyncIterator[Version]:
        """The current version of an adapter, loaded if need be, kept inside the block.

        Raises:
            AdapterError: it does not fit the base, or its files are broken.
        """
        version = self._current(base.engine, card)
        if version is None:
            async with self._loading:
                version = self._current(base.engine, card) or await self._load(base, card)
        version.users += 1
        version.last_used = next(self._clock)
        try:
            yield version
        finally:
            version.users -= 1
            if not version.users:
                self._freed.set()
                if not version.is_current:
                    self._drop(version)

    @asynccontextmanager
    async def use_all(self, base: ServedModel, cards: Sequence[ModelCard]) -> AsyncIterator[list[Version]]:
        """Several adapters at once, as ``use`` gives one.

        Raises:
            RequestError: they are more than may be loaded.
            AdapterError: one does not fit the base, or its files are broken.
        """
        if (count := len({card.name for card in cards})) > self._most:
            raise RequestError(
                f"the request mixes {count} adapters, but at most {self._most} can be loaded at a time.",
                hint="Mix fewer, or raise max_adapters.",
                param="lora",
            )
        async with AsyncExitStack() as held:
            # Two requests that each hold a place the other waits for would wait for ever.
            async with self._gathering if count > 1 else nullcontext():
                versions = [await held.enter_async_context(self.use(base, card)) for card in cards]
            yield versions

    async def replace(self, base: ServedModel, card: ModelCard) -> Version:
        """Read an adapter anew: the next requests get this version, running ones keep theirs."""
        async with self._loading:
            version = await self._load(base, card)
            self._retired.discard(card.name)
            version.is_current = True
            return version

    def retire(self, name: str) -> None:
        """New requests no longer get the adapter of this name."""
        self._retired.add(name)
        self._end(name)

    def _end(self, name: str) -> None:
        for version in [v for v in self._versions if v.card.name == name and v.is_current]:
            version.is_current = False
            if not version.users:
                self._drop(version)

    def loaded(self, name: str) -> Version | None:
        """The adapter of this name as new requests get it, without loading it."""
        found = (v for v in self._versions if v.card.name == name and v.is_current and v.is_loaded)
        return next(found, None)

    def _current(self, engine: Engine, card: ModelCard) -> Version | None:
        version = self.loaded(card.name)
        fits = version is not None and version.engine is engine and version.card.adapter == card.adapter
        return version if fits else None

    async def _load(self, base: ServedModel, card: ModelCard) -> Version:
        assert card.adapter is not None
        self._versions = [version for version in self._versions if version.is_loaded]
        await self._make_room(base.engine)
        text = await asyncio.to_thread(self._read_text, card, base.text)
        facts = await base.engine.load_adapter(card.adapter)
        # Only now: what cannot be read leaves the version before in place.
        self._end(card.name)
        is_current = card.name not in self._retired
        version = Version(card, base.engine, text, facts, next(self._clock), is_current=is_current)
        self._versions.append(version)
        self._free_memory(version)
        return version

    async def _make_room(self, engine: Engine) -> None:
        """Drop adapters nobody uses until one more has a place; waits where all are in use."""
        while len(mine := [v for v in self._versions if v.engine is engine]) >= self._most:
            idle = [version for version in mine if not version.users]
            if idle:
                self._drop(min(idle, key=lambda version: version.last_used))
            else:
                self._freed.clear()
                await self._freed.wait()

    def _free_memory(self, kept: Version) -> None:
        """Drop idle adapters while those of an engine take too much together."""
        others = [v for v in self._versions if v.engine is kept.engine and v is not kept]
        for version in sorted(others, key=lambda version: version.last_used):
            if sum(v.facts.bytes for v in self._versions if v.engine is kept.engine) <= self._memory:
                return
            if not version.users:
                self._drop(version)

    def _drop(self, version: Version) -> None:
        if version in self._versions:
            self._versions.remove(version)
            version.engine.unload_adapter(version.facts.id)


def check_same_base(card: ModelCard, mixed: ModelCard) -> None:
    """Raise RequestError unless both are of one base."""
    base = card.base or card
    if mixed.base is None or mixed.base.name != base.name:
        problem = f"{mixed.name!r} is no adapter of {base.name!r}"
        raise RequestError(f"{problem}.", hint="`shimmy list` shows each adapter's base.", param="lora")
