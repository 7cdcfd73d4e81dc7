"""A model in the process of the command: loaded, asked once, closed. The server uses workers instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shimmy.cli.progress import loading_bar

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard
    from shimmy.engine.engine import Engine
    from shimmy.engine.load import Loaded
    from shimmy.engine.protocol import Submit
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings
    from shimmy.text.stream import TextStream

#: The only one there is.
_ADAPTER = 1


@contextmanager
def loaded_engine(card: ModelCard, settings: Settings, plugins: Plugins, *, quiet: bool) -> Iterator[Loaded]:
    """The model's engine and the facts about it; closed with the block. Raises what loading raises.

    With an adapter, requests name it by :func:`adapters_of`.
    """
    from shimmy.engine.load import fit_adapter, load_engine
    from shimmy.engine.settings import EngineSettings

    with loading_bar(card.name, quiet=quiet) as bar:
        engine = EngineSettings.of(settings)
        loaded = load_engine(card.path, card.name, engine, plugins, bar.update)
    try:
        if card.adapter is not None:
            loaded.engine.adapters.put(_ADAPTER, fit_adapter(card.adapter, loaded.base, engine, plugins)[1])
        yield loaded
    finally:
        loaded.engine.close()


def adapters_of(card: ModelCard) -> list[tuple[int, float]]:
    """What a request for this model says of adapters."""
    return [] if card.adapter is None else [(_ADAPTER, 1.0)]


class Answer:
    """One answer: iterate over its text, piece by piece as it comes, then ask how it ended.

    ``text`` knows the texts that end the answer, ``request`` the tokens; the engine serves nobody else.
    """

    def __init__(self, engine: Engine, text: TextStream, request: Submit) -> None:
        self.tokens = 0
        """How many were made, the last one included."""
        self.finish: str | None = None
        """``stop`` or ``length``, once the answer has ended."""
        self._engine = engine
        self._text = text
        self._request = request

    def __iter__(self) -> Iterator[str]:
        self._engine.submit(self._request)
        while self.finish is None:
            for event in self._engine.step():
                if event.error:
                    raise event.error.to_error()
                if event.token is not None:
                    self.tokens += 1
                    yield self._text.push([event.token])
                self.finish = "stop" if self._text.stopped else event.finish
        self._engine.cancel(self._request.id)
        yield self._text.flush()
