"""The adapters among what sources found, each paired with its base when somebody asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.discovery.records import FoundAdapter, Skipped
from shimmy.errors import ShimmyError
from shimmy.gguf.card import ModelCard

if TYPE_CHECKING:
    from shimmy.lora.pairing import Candidate
    from shimmy.registry import Registry
    from shimmy.specs import QuantTypeSpec


class Pairs:
    """Adapters by name, as cards of their bases with them.

    Args:
        found: what the sources report, each once.
        taken: names that models have.
        candidates: all models without adapters.
        chosen_base: the base that the settings name for the adapter they name, if they do.
    """

    def __init__(
        self,
        found: Sequence[FoundAdapter],
        taken: Iterable[str],
        candidates: Callable[[], list[Candidate]],
        quant_types: Registry[QuantTypeSpec],
        chosen_base: Callable[[], ModelCard] | None = None,
    ) -> None:
        self._found = _named(found, set(taken))
        self._candidates = candidates
        self._quant_types = quant_types
        self._chosen_base = chosen_base
        self._results: dict[str, ModelCard | Skipped] = {}

    def names(self) -> list[str]:
        return list(self._found)

    def plain_names(self) -> dict[str, str]:
        """By name, what each would be called if nothing else were called so."""
        return {name: found.name for name, found in self._found.items()}

    def places(self) -> set[Path]:
        """Where they lie."""
        return {found.path for found in self._found.values()}

    def keep(self, before: Pairs, held: Container[Path]) -> None:
        """Take over what was known of those in ``held``, whose files are not looked at for now."""
        cards = {card.adapter: card for card in before._results.values() if isinstance(card, ModelCard)}
        for name, found in self._found.items():
            if found.path in held and (card := cards.get(found.path)):
                self._results[name] = replace(card, name=name)

    def __bool__(self) -> bool:
        return bool(self._found)

    def results(self) -> dict[str, ModelCard | Skipped]:
        """All by name, those that cannot be used included."""
        return {name: self._result(name) for name in self._found}

    def cards(self) -> list[ModelCard]:
        """The cards of all that have a base."""
        return [card for name in self._found if isinstance(card := self._result(name), ModelCard)]

    def skipped(self) -> list[Skipped]:
        """Those that cannot be used, with the reason."""
        return [row for name in self._found if isinstance(row := self._result(name), Skipped)]

    def get(self, name: str) -> ModelCard | Skipped | None:
        """An adapter by its name or by another spelling (:meth:`aliases`); None if there is none."""
        if name in self._found:
            return self._result(name)
        return next((card for card in self.cards() if name in self.aliases(card)), None)

    def chosen(self) -> ModelCard | Skipped | None:
        """The adapter that the settings name."""
        return next((self._result(name) for name, found in self._found.items() if found.chosen), None)

    def aliases(self, card: ModelCard) -> list[str]:
        """Further names of an adapter that has a base."""
        assert card.base is not None
        names = [f"{card.base.name}:{card.name}"]
        found = self._found.get(card.name)
        if found and found.namespace and (full := f"{found.namespace}/{found.name}") not in self._found:
            names.append(full)
        if found and found.chosen:
            names += [f"{card.architecture}-lora", f"{card.base.name}-lora"]
        return names

    def _result(self, name: str) -> ModelCard | Skipped:
        if name not in self._results:
            found = self._found[name]
            try:
                self._results[name] = self._pair(name, found)
            except ShimmyError as error:
                self._results[name] = Skipped(found.path, found.source, str(error))
        return self._results[name]

    def _pair(self, name: str, found: FoundAdapter) -> ModelCard:
        from shimmy.lora.pairing import check_base, choose_base
        from shimmy.lora.read import read_adapter

        adapter = read_adapter(found.path, self._quant_types)
        if found.chosen and self._chosen_base is not None:
            base = self._chosen_base()
            check_base(adapter, base, self._candidates)
        else:
            base = choose_base(adapter, self._candidates()).card
        return replace(base, name=name, source=found.source, adapter=found.path, base=base)


def _named(adapters: Sequence[FoundAdapter], taken: set[str]) -> dict[str, FoundAdapter]:
    """Each adapter under a name of its own: its folder's, with as many parents as it takes."""
    names = [adapter.name for adapter in adapters]
    for level in range(1, max((len(a.path.parts) for a in adapters), default=0)):
        counts = Counter(names)
        for index, adapter in enumerate(adapters):
            if counts[names[index]] > 1 or names[index] in taken:
                folders = adapter.namespace.split("/") if adapter.namespace else adapter.path.parent.parts
                names[index] = "/".join((*folders[-level:], adapter.name))
    return dict(zip(names, adapters, strict=True))
