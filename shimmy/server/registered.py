"""Adapters that clients have loaded while the server runs: their names, and where they may come from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.errors import ModelNotFoundError, RequestError

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard

_NAME = re.compile(r"[\w.@:/+-]{1,200}")


class RegisteredAdapters:
    """Names given by clients; they end with the server.

    Args:
        roots: folders below which clients may name adapters.
    """

    def __init__(self, roots: Iterable[Path] = ()) -> None:
        self._roots = [root.resolve() for root in roots]
        self._cards: dict[str, ModelCard] = {}
        self._numbers: dict[str, int] = {}
        self.scales: dict[str, float] = {}
        """Factors by which adapters apply to requests for their base that name none."""

    def find(self, name: str) -> ModelCard | None:
        return self._cards.get(name)

    def cards(self) -> list[ModelCard]:
        return list(self._cards.values())

    def numbered(self, cards: Iterable[ModelCard]) -> dict[int, ModelCard]:
        """The cards by number; an adapter keeps its number as long as the server runs."""
        return {self._numbers.setdefault(card.name, len(self._numbers)): card for card in cards}

    def card(self, name: str, path: str, base: ModelCard) -> ModelCard:
        """The card of a base with the adapter at ``path``; nobody finds it before :meth:`add`.

        Raises:
            RequestError: the name cannot be one, or the path is not below a configured folder.
        """
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"lora_name is {name!r:.80}; expected letters, digits and the signs . _ - @ : / +",
                param="lora_name",
            )
        base = base.base or base
        return replace(base, name=name, source="clients", adapter=self._confined(path), base=base)

    def add(self, card: ModelCard) -> None:
        self._cards[card.name] = card

    def remove(self, name: str) -> ModelCard:
        """Forget an adapter. ModelNotFoundError if no client has loaded one of this name."""
        try:
            card = self._cards.pop(name)
        except KeyError:
            raise ModelNotFoundError(
                f"no client has loaded an adapter {name!r}.",
                hint=f"Loaded are: {', '.join(self._cards) or 'none'}.",
                param="lora_name",
            ) from None
        self.scales.pop(name, None)
        return card

    def _confined(self, path: str) -> Path:
        """The path, which no link leads out of the configured folders."""
        if not self._roots:
            raise RequestError(
                "no folder is configured from which adapters may be loaded.",
                hint="Set lora_dirs (or models_dir, or auto_discover).",
                param="lora_path",
            )
        for root in self._roots if "\0" not in path else ():
            place = (root / path).resolve()
            if place.is_relative_to(root) and place.exists():
                return place
        listed = ", ".join(str(root) for root in self._roots)
        raise RequestError(f"lora_path is {path!r:.200}, which is nothing below {listed}.", param="lora_path")
