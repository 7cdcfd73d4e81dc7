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


@contextmanager
def loaded_engine(card: ModelCard, settings: Settings, plugins: Plugins, *, quiet: bool) -> Iterator[Loaded]:
    """The model's engine and the facts about it; closed with the block. Raises what loading raises."""
    from shimmy.engine.load import load_engine
    from shimmy.engine.protocol import EngineSettings

    with loading_bar(card.name, quiet=quiet) as bar:
        loaded = load_engine(card.path, card.name, EngineSettings.of(settings), plugins, bar.update)
    try:
        yield loaded
    finally:
        loaded.engine.close()


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
