"""The adapters of loaded models: read when asked for, replaced while in use, the longest unused first out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shimmy.errors import AdapterError, RequestError
from shimmy.lora.adapter import adapter_errors

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
    def bytes(self) -> int:
        return self.facts.bytes

    @property
    def is_loaded(self) -> bool:
        """Whether the engine still has it: one that was started anew has none."""
        return self.facts.id in self.engine.adapters


class AdapterPool:
    """At most ``most`` adapters of a model, ``memory`` bytes together; the longest unused one leaves first.

    One that is read comes on top of these until it is known to be usable: only then others make room.
    Where all that could leave are in use, it waits for them.

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
        self._retired: set[ModelCard] = set()
        """Those that only requests from before still use."""
        self._loading = asyncio.Lock()
        self._freed = asyncio.Event()
        self._clock = itertools.count()

    @asynccontextmanager
    async def use(self, base: ServedModel, cards: Sequence[ModelCard]) -> AsyncIterator[list[Version]]:
        """The current versions of adapters, loaded if need be, kept inside the block.

        Raises:
            RequestError: they are more than may be loaded.
            AdapterError: one does not fit the base, or its files are broken, or they are too large.
        """
        if len(cards) > self._most:
            raise RequestError(
                f"the request mixes {len(cards)} adapters, but at most {self._most} can be loaded at a time.",
                hint="Mix fewer, or raise max_adapters.",
                param="lora",
            )
        taken: dict[str, Version] = {}
        try:
            if not self._take_loaded(base.engine, cards, taken):
                # All or none: who waits for others to give way must not keep what these wait for.
                async with self._loading:
                    self._take_loaded(base.engine, cards, taken, partly=True)
                    for card in cards:
                        if card.name not in taken:
                            self._take(await self._load(base, card, list(taken.values())), taken)
            yield [taken[card.name] for card in cards]
        finally:
            for version in taken.values():
                self._give_back(version)

    def _take_loaded(
        self, engine: Engine, cards: Sequence[ModelCard], taken: dict[str, Version], *, partly: bool = False
    ) -> bool:
        """Take those that are loaded, if they are all or ``partly`` is enough; whether they are all."""
        found = [version for card in cards if (version := self._current(engine, card)) is not None]
        is_all = len(found) == len(cards)
        for version in found if is_all or partly else ():
            self._take(version, taken)
        return is_all

    def _take(self, version: Version, taken: dict[str, Version]) -> None:
        version.users += 1
        version.last_used = next(self._clock)
        taken[version.card.name] = version

    def _give_back(self, version: Version) -> None:
        version.users -= 1
        if not version.users:
            self._freed.set()
            if not version.is_current:
                self._drop(version)

    async def replace(self, base: ServedModel, card: ModelCard) -> Version:
        """Read an adapter anew: the next requests get this version, running ones keep theirs."""
        async with self._loading:
            version = await self._load(base, card)
            self._retired.discard(card)
            version.is_current = True
            return version

    def retire(self, card: ModelCard) -> None:
        """New requests no longer get this adapter; its name may come to mean another one."""
        self._retired.add(card)
        self.end(card.name)

    def end(self, name: str) -> None:
        """Whoever asks for the adapter of this name from now on gets it read anew."""
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

    async def _load(self, base: ServedModel, card: ModelCard, beside: Sequence[Version] = ()) -> Version:
        assert card.adapter is not None
        # All that can be wrong with it is found before any other gives way.
        with adapter_errors(card.adapter):
            text = await asyncio.to_thread(self._read_text, card, base.text)
            facts = await base.engine.load_adapter(card.adapter)
        version = Version(card, base.engine, text, facts, next(self._clock))
        try:
            self._check_memory(version, beside)
            await self._make_room(version)
        except BaseException:
            base.engine.unload_adapter(facts.id)
            raise
        self.end(card.name)
        # It may have been unloaded while it waited for room.
        version.is_current = card not in self._retired
        self._versions.append(version)
        return version

    def _check_memory(self, version: Version, beside: Sequence[Version]) -> None:
        """Raise AdapterError if an adapter and those beside it will never fit into memory."""
        if sum(each.bytes for each in (version, *beside)) <= self._memory:
            return
        parts = " + ".join(f"{_mib(each.bytes)} of {each.card.name!r}" for each in (*beside, version))
        raise AdapterError(
            f"{version.card.adapter}: {parts} MiB are more than the {_mib(self._memory)} MiB that adapters "
            "may take.",
            hint="Raise lora_memory.",
        )

    async def _make_room(self, new: Version) -> None:
        """Drop adapters nobody uses until the new one has a place and memory; waits where all are in use."""
        while True:
            self._versions = [version for version in self._versions if version.is_loaded]
            staying = [v for v in self._versions if v.engine is new.engine and not _is_replaced(v, new)]
            taken = sum(version.bytes for version in staying)
            if len(staying) < self._most and taken + new.bytes <= self._memory:
                return
            idle = [version for version in staying if not version.users]
            if idle:
                self._drop(min(idle, key=lambda version: version.last_used))
            else:
                self._freed.clear()
                await self._freed.wait()

    def _drop(self, version: Version) -> None:
        if version in self._versions:
            self._versions.remove(version)
            version.engine.unload_adapter(version.facts.id)


def _is_replaced(version: Version, new: Version) -> bool:
    """Whether a version leaves as soon as the new one is there."""
    return version.card.name == new.card.name and version.is_current and not version.users


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f}"
