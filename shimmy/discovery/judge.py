"""What found files are good for: their cards, or why they cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.caches import cache_folder
from shimmy.discovery.cards import CardReader, FileFacts
from shimmy.discovery.records import FoundAdapter, FoundModel, Skipped
from shimmy.errors import ModelError
from shimmy.gguf.card import ModelCard

if TYPE_CHECKING:
    from shimmy.lora.pairing import Candidate
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings


class Judge:
    """Opens files when their cards are asked for, and again only after they have changed; safe in threads.

    Args:
        settings: what folders are converted to.
        plugins: must understand what is to be used.
    """

    def __init__(self, settings: Settings, plugins: Plugins) -> None:
        self._settings = settings
        self._plugins = plugins
        self._cards = CardReader(plugins.quant_types, _card_memory(), self._folder_card)

    def examine(self, name: str, found: FoundModel) -> ModelCard | Skipped:
        """The card of a model, under its name."""
        return self._judge(name, found, self._cards.read(found.path))

    def bases(self, models: Mapping[str, FoundModel]) -> list[ModelCard]:
        """The cards of all that can be used, as they are without adapters."""
        rows = [self._judge(name, found, facts) for name, found, facts in self._read_all(models)]
        return [row for row in rows if not isinstance(row, Skipped)]

    def candidates(self, models: Mapping[str, FoundModel]) -> list[Candidate]:
        """The bases that adapters may belong to; last those that cannot be used, with the reason."""
        from shimmy.lora.pairing import Candidate

        candidates = []
        for name, found, facts in self._read_all(models):
            judged = self._judge(name, found, facts)
            problem = judged.reason if isinstance(judged, Skipped) else None
            card = facts.card or _blank_card(found.path)
            candidates.append(Candidate(replace(card, name=name, source=found.source), problem))
        return sorted(candidates, key=lambda candidate: candidate.problem is not None)

    def unusable(self, models: Mapping[str, FoundModel]) -> list[Skipped]:
        """Those that cannot be used, as far as a glance at them tells."""
        rows = [self._judge(name, found, self._cards.glance(found.path)) for name, found in models.items()]
        self._cards.save()
        return [row for row in rows if isinstance(row, Skipped)]

    def is_usable(self, found: FoundModel | FoundAdapter) -> bool:
        """Whether its own files allow for it, whatever the base of an adapter."""
        if isinstance(found, FoundModel):
            return self._cards.read(found.path).problem is None
        from shimmy.lora.read import read_adapter

        try:
            read_adapter(found.path, self._plugins.quant_types)
        except ModelError:
            return False
        return True

    def _read_all(self, models: Mapping[str, FoundModel]) -> list[tuple[str, FoundModel, FileFacts]]:
        facts = self._cards.read_all(found.path for found in models.values())
        self._cards.save()
        return [(name, found, each) for (name, found), each in zip(models.items(), facts, strict=True)]

    def _judge(self, name: str, found: FoundModel, facts: FileFacts) -> ModelCard | Skipped:
        problem = facts.problem
        if facts.card is None or problem is not None:
            return Skipped(found.path, found.source, problem or "it cannot be read.")
        if (architecture := facts.card.architecture) not in self._plugins.architectures:
            return Skipped(found.path, found.source, f"no plugin provides its architecture {architecture!r}.")
        return replace(facts.card, name=name, source=found.source)

    def _folder_card(self, path: Path) -> ModelCard:
        from shimmy.huggingface.card import folder_card

        return folder_card(path, self._settings.quantize, self._plugins)


def _blank_card(path: Path) -> ModelCard:
    """Of a file or folder that says nothing of itself which can be understood."""
    return ModelCard("", path, "", 0, "unknown", None, None, None, has_chat_template=False)


def _card_memory() -> Path:
    return cache_folder() / "models.json"
