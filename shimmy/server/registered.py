"""Adapters that clients have loaded while the server runs: their names, and where they may come from."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.errors import ModelNotFoundError, RequestError, ShimmyError

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard

_log = logging.getLogger(__name__)

#: Adapters named where a number is wrong.
NAMED = 10
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
        self.loading = asyncio.Lock()
        """Held from the look at whether a name is free until it is taken."""
        self.scales: dict[str, float] = {}
        """Factors by which adapters apply to requests for their base that name none."""
        self.problems: dict[str, str] = {}
        """Why adapters lost their factor."""

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
        self.problems.pop(card.name, None)

    def set_scales(self, scales: Mapping[str, float]) -> None:
        """The factors from now on; adapters that are not named have none."""
        self.scales = dict(scales)
        self.problems.clear()

    def drop_scale(self, name: str, error: ShimmyError) -> None:
        """An adapter that cannot be used any more is applied to nobody's requests."""
        if self.scales.pop(name, None) is not None:
            self.problems[name] = str(error)
            _log.error("the adapter %r is no longer applied to all requests: %s", name, error)

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
        for root in self._roots:
            place = _resolved(root / path)
            if place is not None and place.is_relative_to(root):
                self._check_links(place)
                return place
        listed = ", ".join(str(root) for root in self._roots) or "any folder: none is configured"
        raise RequestError(
            f"lora_path is {path!r:.200}, which is nothing below {listed}.",
            hint="lora_dirs names further folders.",
            param="lora_path",
        )

    def _check_links(self, place: Path) -> None:
        """Raise RequestError if a file of the adapter at ``place`` is elsewhere."""
        from shimmy.lora.read import adapter_place

        folder = adapter_place(place)
        for file in folder.iterdir() if folder.is_dir() else ():
            target = _resolved(file)
            if target is None or not any(target.is_relative_to(root) for root in self._roots):
                raise RequestError(
                    f"{folder}: {file.name!r} leads out of the folders from which adapters may be loaded.",
                    hint="Copy the file, or add the folder where it is to lora_dirs.",
                    param="lora_path",
                )


def no_such_adapter(number: int, cards: Mapping[int, ModelCard], param: str) -> RequestError:
    """Nobody has this number; these have others."""
    known = ", ".join(f"{each} ({card.name})" for each, card in sorted(cards.items())[:NAMED])
    more = ", …" if len(cards) > NAMED else ""
    return RequestError(
        f"there is no adapter with id {number}.", hint=f"There are: {known or 'none'}{more}.", param=param
    )


def _resolved(path: Path) -> Path | None:
    """Where a path leads; None if nowhere: links in a circle, names that are none."""
    try:
        return path.resolve() if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None
