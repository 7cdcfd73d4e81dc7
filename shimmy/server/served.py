"""A loaded model as requests see it, and what it needs of an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard
    from shimmy.engine.protocol import AdapterLoaded, Progress, Ready, Sampling, Stats, TokenEvent
    from shimmy.errors import ShimmyError
    from shimmy.server.text import ModelText


class Engine(Protocol):
    """What the pool and generation need of an engine; :class:`shimmy.engine.client.EngineClient` is one."""

    state: str
    ready: Ready | None
    progress: Progress | None
    stats: Stats | None
    error: ShimmyError | None
    """Why it is not ready, if it failed."""
    adapters: set[int]
    """Ids of the adapters it has."""

    async def start(self) -> Ready: ...

    def generate(
        self,
        tokens: list[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        stop_ids: Iterable[int],
        salt: str,
        adapters: Sequence[tuple[int, float]],
    ) -> AsyncGenerator[list[TokenEvent], None]: ...

    async def load_adapter(self, path: Path) -> AdapterLoaded: ...

    def unload_adapter(self, adapter: int) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model."""

    card: ModelCard
    text: ModelText
    engine: Engine
    facts: Ready
    adapters: tuple[tuple[int, float], ...] = ()
    """The engine's ids of the adapters that are applied, each with a factor."""
