"""The model that is loaded at start, and what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shimmy.errors import ShimmyError

if TYPE_CHECKING:
    from shimmy.server.context import ServerContext
    from shimmy.server.served import ServedModel


class DefaultModel:
    """The default model's way into memory, beside a server that already answers.

    ``name`` is None until it is known which model that is; ``error`` is why there is none, or why
    it could not be loaded. The server lives on without it.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.error: ShimmyError | None = None
        self.wanted = False
        """Whether a load was asked for at all."""
        self.sought = asyncio.Event()
        """Set once the model is found, or is not."""

    async def load(self, context: ServerContext) -> ServedModel:
        """Find and load the default model; raises what went wrong and remembers it."""
        self.wanted, self.error = True, None
        try:
            card = await context.find_model(None)
            self.name = card.name
            self.sought.set()
            return await context.models.load(card)
        except ShimmyError as error:
            self.error = error
            raise
        finally:
            self.sought.set()
