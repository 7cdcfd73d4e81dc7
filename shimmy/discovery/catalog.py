"""The catalog: what the discovery sources found, under unique names, with a card for each model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.caches import cache_folder
from shimmy.discovery.adapters import Pairs
from shimmy.discovery.ask import ask_sources
from shimmy.discovery.cards import CardReader, FileFacts
from shimmy.discovery.names import name_models
from shimmy.discovery.records import DiscoverySource, FoundAdapter, FoundModel, Searched, Skipped
from shimmy.discovery.served import KEY, check_served_names, served_names, unknown_model
from shimmy.discovery.unique import unique_models
from shimmy.errors import AdapterError, ModelError, ModelNotFoundError, did_you_mean
from shimmy.gguf.card import ModelCard

if TYPE_CHECKING:
    from shimmy.lora.pairing import Candidate
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings

__all__ = ["Catalog", "DiscoverySource", "FoundModel", "ModelCard", "Searched", "Skipped"]

#: What a source may take to answer.
SOURCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Scan:
    """The outcome of asking all sources."""

    models: dict[str, FoundModel] = field(default_factory=dict)
    aliases: dict[str, FoundModel] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    searched: tuple[Searched, ...] = ()
    pairs: Pairs | None = None
    """The adapters; None: there are none."""

    def find(self, name: str) -> tuple[str, FoundModel] | None:
        if name in self.models:
            return name, self.models[name]
        if (model := self.aliases.get(name)) is None:
            return None
        return next(known for known, found in self.models.items() if found is model), model


class Catalog:
    """The models at hand. Sources are asked at first use and by :meth:`refresh`; safe in threads.

    A file is opened when its card is asked for, and again only after it has changed.

    Args:
        settings: where to look.
        plugins: the sources, and what they find must be understood by.
        source_seconds: how long a source may take.

    Raises:
        ConfigError: an entry of ``served_model_name`` is not as it should be.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        *,
        source_seconds: float = SOURCE_SECONDS,
    ) -> None:
        self._settings = settings
        self._plugins = plugins
        self._served = served_names(settings)
        self._seconds = source_seconds
        self._lock = threading.RLock()
        self._scan: _Scan | None = None
        self._cards = CardReader(plugins.quant_types, _card_memory(), self._folder_card)

    def refresh(self) -> None:
        """Ask all sources again.

        Raises:
            ConfigError: a setting names a file that does not exist, or one model as another is called.
        """
        reports = ask_sources(self._plugins.discovery_sources, self._settings, seconds=self._seconds)
        found, unusable = unique_models(report for report in reports if isinstance(report, FoundModel))
        skipped = [report for report in reports if isinstance(report, Skipped)]
        searched = tuple(report for report in reports if isinstance(report, Searched))
        adapters = [report for report in reports if isinstance(report, FoundAdapter)]
        places = {adapter.path for adapter in adapters}
        models, aliases = name_models([model for model in found if model.path not in places])
        pairs = self._pairs(adapters, models) if adapters else None
        scan = _Scan(models, aliases, (*skipped, *unusable), searched, pairs)
        check_served_names(self._served, scan.models)
        with self._lock:
            self._scan = scan

    def names(self) -> list[str]:
        """The names of all files found, without opening any; not each may turn out to be a model."""
        scan = self._scanned()
        return sorted([*scan.models, *(scan.pairs.names() if scan.pairs else ())])

    def aliases(self, name: str) -> list[str]:
        """What else people call the model of this name: the user's own names for it, and its source's."""
        scan = self._scanned()
        if name not in scan.models:
            card = self._named(name)
            return scan.pairs.aliases(card) if scan.pairs and card.base else []
        found = scan.models[name]
        own = (alias for alias, target in self._served.items() if self._meant(target) == name)
        return [*own, *(alias for alias in found.aliases if scan.aliases.get(alias) is found)]

    def check_served_names(self) -> None:
        """Raise ConfigError where ``served_model_name`` names a model that nobody knows."""
        for target in filter(None, self._served.values()):
            try:
                self._named(target)
            except ModelNotFoundError as error:
                raise unknown_model(error) from None
            except ModelError:
                # It is there; that it cannot be used is told where somebody asks for it.
                continue

    def own_names(self) -> dict[str, ModelCard]:
        """The user's own names for models that can be used, each with the model's card."""
        cards = {}
        for name in self._served:
            with suppress(ModelError, ModelNotFoundError):
                cards[name] = self.get(name)
        return cards

    def models(self) -> list[ModelCard]:
        """The cards of all language models, by name, those with an adapter included.

        Of many files some are only glanced at: their cards lack ``parameters`` and ``quantization``,
        and that they are damaged may not show yet. Each call looks at some more of them.
        """
        pairs = self._scanned().pairs
        cards = [*self._bases(), *(pairs.cards() if pairs else ())]
        return sorted(cards, key=lambda card: card.name)

    def _bases(self) -> list[ModelCard]:
        """The cards of all models as they are without adapters."""
        found = self._scanned().models
        facts = self._cards.read_all(model.path for model in found.values())
        self._cards.save()
        rows = [self._judge(*model, each) for model, each in zip(found.items(), facts, strict=True)]
        return [row for row in rows if isinstance(row, ModelCard)]

    def candidates(self) -> list[Candidate]:
        """The bases that adapters may belong to; last those that cannot be used, with the reason."""
        return self._candidates(self._scanned().models)

    def _candidates(self, found: Mapping[str, FoundModel]) -> list[Candidate]:
        from shimmy.lora.pairing import Candidate

        facts = self._cards.read_all(model.path for model in found.values())
        self._cards.save()
        candidates = []
        for (name, model), each in zip(found.items(), facts, strict=True):
            if each.card is not None:
                judged = self._judge(name, model, each)
                problem = judged.reason if isinstance(judged, Skipped) else None
                card = replace(each.card, name=name, source=model.source)
                candidates.append(Candidate(card, problem))
        return sorted(candidates, key=lambda candidate: candidate.problem is not None)

    @property
    def skipped(self) -> list[Skipped]:
        """What was found and is no model that shimmy can run, with reasons; what :meth:`models` left out."""
        found = self._scanned().models.items()
        rows = [self._judge(name, model, self._cards.glance(model.path)) for name, model in found]
        self._cards.save()
        pairs = self._scanned().pairs
        unpaired = pairs.skipped() if pairs else []
        return [*self._scanned().skipped, *unpaired, *(row for row in rows if isinstance(row, Skipped))]

    @property
    def searched(self) -> list[Searched]:
        """The places where sources looked, whether they exist or not."""
        return list(self._scanned().searched)

    def get(self, name: str) -> ModelCard:
        """The card of the model a request names: by name, by alias, or by a plugin's answer.

        Raises:
            ModelNotFoundError: nobody knows the name.
            ModelError: the file is there, but is no language model that shimmy can run.
        """
        if name not in self._served:
            return self._named(name)
        target = self._served[name]
        try:
            return self.default() if target is None else self._named(target)
        except ModelNotFoundError as error:
            problem = f"{KEY} makes {name!r} a name of another model, but {error.message}"
            raise ModelNotFoundError(problem, hint=error.hint, param="model") from None

    def target(self, name: str | None) -> str | None:
        """The name of the model that ``name`` means, None for the default one. Looks at no file.

        A name that no source knows stays as it is.
        """
        wanted = None if name is None else self._served.get(name, name)
        if wanted is None:
            return None
        known = self._scanned().find(wanted)
        return known[0] if known else wanted

    def default(self) -> ModelCard:
        """The model to use when none is named.

        That is ``lora_gguf`` with its base if it is set, else ``base_gguf``, else the first by name.

        Raises:
            ModelNotFoundError: there is no model at all, or no source looks where a setting points to.
            ModelError: what a setting names is no language model that shimmy can run, or no adapter.
        """
        if self._settings.lora_gguf is not None:
            return self._default_adapter()
        if self._settings.base_gguf is not None:
            return self._base()
        for name in self.names():
            # Only as many files are opened as it takes.
            found = self._scanned().models.get(name)
            if found is not None and isinstance(card := self._examine(name, found), ModelCard):
                return card
        raise ModelNotFoundError("there is no model.", hint=self._advice(""), param="model")

    def _base(self) -> ModelCard:
        """The card of the file that ``base_gguf`` names."""
        assert self._settings.base_gguf is not None
        wanted = self._settings.base_gguf.resolve()
        for name, found in self._scanned().models.items():
            if found.path.resolve() == wanted:
                return self._card(name, found)
        raise ModelNotFoundError(
            f"no discovery source reports base_gguf, {str(self._settings.base_gguf)!r}.",
            hint="`shimmy plugins` shows whether the plugin that looks there is disabled.",
        )

    def _default_adapter(self) -> ModelCard:
        pairs = self._scanned().pairs
        chosen = pairs.chosen() if pairs else None
        if chosen is None:
            raise ModelNotFoundError(
                f"no discovery source reports lora_gguf, {str(self._settings.lora_gguf)!r}.",
                hint="`shimmy plugins` shows whether the plugin that looks there is disabled.",
            )
        return _usable_adapter(chosen, chosen.name if isinstance(chosen, ModelCard) else str(chosen.path))

    def _pairs(self, adapters: list[FoundAdapter], models: Iterable[str]) -> Pairs:
        named = self._settings.base_gguf is not None
        base = self._base if named else None
        return Pairs(adapters, models, self.candidates, self._plugins.quant_types, base)

    def _scanned(self) -> _Scan:
        with self._lock:
            if self._scan is None:
                self.refresh()
            assert self._scan is not None
            return self._scan

    def _meant(self, target: str | None) -> str | None:
        """The name of the model a served name is for; None if there is none."""
        try:
            return (self.default() if target is None else self._named(target)).name
        except (ModelError, ModelNotFoundError):
            return None

    def _named(self, name: str) -> ModelCard:
        if known := self._scanned().find(name):
            return self._card(*known)
        pairs = self._scanned().pairs
        if pairs and (paired := pairs.get(name)) is not None:
            return _usable_adapter(paired, name)
        if (resolved := self._plugins.resolve_model(name)) is not None:
            return self._card(name, resolved)
        raise ModelNotFoundError(f"there is no model {name!r}.", hint=self._advice(name), param="model")

    def _card(self, name: str, found: FoundModel) -> ModelCard:
        return _usable(self._examine(name, found), name)

    def _examine(self, name: str, found: FoundModel) -> ModelCard | Skipped:
        return self._judge(name, found, self._cards.read(found.path))

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

    def _advice(self, name: str) -> str:
        names = self.names()
        if names:
            return did_you_mean(name, names) if name else "`shimmy list --all` says why none can be used."
        return "Name a GGUF file with --base-gguf, or a folder of them with --models-dir."


def _usable(card: ModelCard | Skipped, name: str) -> ModelCard:
    if isinstance(card, Skipped):
        raise ModelError(f"model {name!r} cannot be used: {card.reason}", param="model")
    return card


def _usable_adapter(card: ModelCard | Skipped, name: str) -> ModelCard:
    if isinstance(card, Skipped):
        raise AdapterError(f"adapter {name!r} cannot be used: {card.reason}", param="model")
    return card


def _card_memory() -> Path:
    return cache_folder() / "models.json"
