"""The catalog: what the discovery sources found, under unique names, with a card for each model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from shimmy.discovery.adapters import Pairs
from shimmy.discovery.ask import ask_sources
from shimmy.discovery.judge import Judge
from shimmy.discovery.records import DiscoverySource, FoundAdapter, FoundModel, Searched, Skipped
from shimmy.discovery.served import KEY, check_served_names, served_names, unknown_model
from shimmy.discovery.survey import NOTHING, Held, Survey, sort_out
from shimmy.errors import AdapterError, ConfigError, ModelError, ModelNotFoundError, did_you_mean
from shimmy.gguf.card import ModelCard

if TYPE_CHECKING:
    from shimmy.lora.pairing import Candidate
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings

__all__ = ["Catalog", "DiscoverySource", "FoundModel", "ModelCard", "Searched", "Skipped"]

#: What a source may take to answer.
SOURCE_SECONDS = 10.0
#: How long what they have answered stands before a name that nobody knows makes us ask again.
AGAIN_SECONDS = 5.0

_log = logging.getLogger(__name__)


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
        self._survey: Survey | None = None
        self._asked = 0.0
        """When all sources were last asked, by the monotonic clock."""
        self._judge = Judge(settings, plugins)

    def refresh(self) -> None:
        """Ask all sources again.

        Raises:
            ConfigError: a setting names a file that does not exist, or one model as another is called.
        """
        with self._lock:
            before = self._survey
        survey = self.survey(before.held if before else NOTHING)
        with self._lock:
            # One that was published meanwhile knows more.
            if self._survey is before:
                self._survey = survey

    def survey(self, held: Held = NOTHING) -> Survey:
        """What the sources report now; it counts once it is published. Raises as :meth:`refresh`.

        News of places in ``held`` are not taken: what was known of them stays.
        """
        with self._lock:
            before = self._survey or Survey()
        reports = ask_sources(self._plugins.discovery_sources, self._settings, seconds=self._seconds)
        survey = sort_out(reports, self._judge, self._pairs, held, before)
        check_served_names(self._served, survey.models)
        with self._lock:
            self._asked = time.monotonic()
        return survey

    def publish(self, survey: Survey) -> None:
        """From now on the models at hand are these."""
        with self._lock:
            self._survey = survey

    def names(self) -> list[str]:
        """The names of all files found, without opening any; not each may turn out to be a model."""
        return self._surveyed().names()

    def clashes(self) -> dict[str, list[str]]:
        """Names that several files go by, each with the longer names that tell them apart."""
        return self._surveyed().clashes()

    def adapters(self) -> dict[str, ModelCard | Skipped]:
        """All adapters by name, each with its base, or why it has none."""
        return self._surveyed().adapters()

    def aliases(self, name: str) -> list[str]:
        """What else people call the model of this name: the user's own names for it, and its source's."""
        survey = self._surveyed()
        if name not in survey.models:
            card = self._named(name)
            return survey.pairs.aliases(card) if survey.pairs and card.base else []
        found = survey.models[name]
        own = (alias for alias, target in self._served.items() if self._meant(target) == name)
        return [*own, *(alias for alias in found.aliases if survey.aliases.get(alias) is found)]

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
        pairs = self._surveyed().pairs
        cards = [*self._judge.bases(self._surveyed().models), *(pairs.cards() if pairs else ())]
        return sorted(cards, key=lambda card: card.name)

    def candidates(self) -> list[Candidate]:
        """The bases that adapters may belong to; last those that cannot be used, with the reason."""
        return self._judge.candidates(self._surveyed().models)

    @property
    def skipped(self) -> list[Skipped]:
        """What was found and is no model that shimmy can run, with reasons; what :meth:`models` left out."""
        survey = self._surveyed()
        unpaired = survey.pairs.skipped() if survey.pairs else []
        return [*survey.skipped, *unpaired, *self._judge.unusable(survey.models)]

    @property
    def searched(self) -> list[Searched]:
        """The places where sources looked, whether they exist or not."""
        return list(self._surveyed().searched)

    def get(self, name: str) -> ModelCard:
        """The card of the model a request names: by name, by alias, or by a plugin's answer.

        Where nobody knows the name all sources are asked again, if that was some seconds ago.

        Raises:
            ModelNotFoundError: nobody knows the name.
            ModelError: the file is there, but is no language model that shimmy can run.
        """
        try:
            return self._get(name)
        except ModelNotFoundError:
            if not self._looks_again():
                raise
        return self._get(name)

    def _get(self, name: str) -> ModelCard:
        if name not in self._served:
            return self._named(name)
        target = self._served[name]
        try:
            return self.default() if target is None else self._named(target)
        except ModelNotFoundError as error:
            problem = f"{KEY} makes {name!r} a name of another model, but {error.message}"
            raise ModelNotFoundError(problem, hint=error.hint, param="model") from None

    def _looks_again(self) -> bool:
        """Ask all sources again, unless they were asked just now; whether that was done."""
        with self._lock:
            if time.monotonic() - self._asked < AGAIN_SECONDS:
                return False
            self._asked = time.monotonic()
        try:
            self.refresh()
        except ConfigError as error:
            _log.debug("what was found before stays: %s", error)
        return True

    def target(self, name: str | None) -> str | None:
        """The name of the model that ``name`` means, None for the default one. Looks at no file.

        A name that no source knows stays as it is.
        """
        wanted = None if name is None else self._served.get(name, name)
        if wanted is None:
            return None
        known = self._surveyed().find(wanted)
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
            return self._base(self._surveyed().models)
        for name in self.names():
            # Only as many files are opened as it takes.
            found = self._surveyed().models.get(name)
            if found is not None and isinstance(card := self._judge.examine(name, found), ModelCard):
                return card
        raise ModelNotFoundError("there is no model.", hint=self._advice(""), param="model")

    def _base(self, models: Mapping[str, FoundModel]) -> ModelCard:
        """The card of the file that ``base_gguf`` names, among these models."""
        assert self._settings.base_gguf is not None
        wanted = self._settings.base_gguf.resolve()
        for name, found in models.items():
            if found.path.resolve() == wanted:
                return self._card(name, found)
        raise ModelNotFoundError(
            f"no discovery source reports base_gguf, {str(self._settings.base_gguf)!r}.",
            hint="`shimmy plugins` shows whether the plugin that looks there is disabled.",
        )

    def _default_adapter(self) -> ModelCard:
        pairs = self._surveyed().pairs
        chosen = pairs.chosen() if pairs else None
        if chosen is None:
            raise ModelNotFoundError(
                f"no discovery source reports lora_gguf, {str(self._settings.lora_gguf)!r}.",
                hint="`shimmy plugins` shows whether the plugin that looks there is disabled.",
            )
        return _usable_adapter(chosen, chosen.name if isinstance(chosen, ModelCard) else str(chosen.path))

    def _pairs(self, adapters: Sequence[FoundAdapter], models: Mapping[str, FoundModel]) -> Pairs:
        base = partial(self._base, models) if self._settings.base_gguf is not None else None
        return Pairs(
            adapters, models, partial(self._judge.candidates, models), self._plugins.quant_types, base
        )

    def _surveyed(self) -> Survey:
        with self._lock:
            if self._survey is None:
                self.refresh()
            assert self._survey is not None
            return self._survey

    def _meant(self, target: str | None) -> str | None:
        """The name of the model a served name is for; None if there is none."""
        try:
            return (self.default() if target is None else self._named(target)).name
        except (ModelError, ModelNotFoundError):
            return None

    def _named(self, name: str) -> ModelCard:
        if known := self._surveyed().find(name):
            return self._card(*known)
        pairs = self._surveyed().pairs
        if pairs and (paired := pairs.get(name)) is not None:
            return _usable_adapter(paired, name)
        if (resolved := self._plugins.resolve_model(name)) is not None:
            return self._card(name, resolved)
        if len(several := self._surveyed().meant_by(name)) > 1:
            problem = f"{name!r} may be any of {len(several)} models."
            raise ModelNotFoundError(problem, hint=f"Say which: {', '.join(several)}.", param="model")
        raise ModelNotFoundError(f"there is no model {name!r}.", hint=self._advice(name), param="model")

    def _card(self, name: str, found: FoundModel) -> ModelCard:
        return _usable(self._judge.examine(name, found), name)

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
