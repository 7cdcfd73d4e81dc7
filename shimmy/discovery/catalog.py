"""The catalog: what the discovery sources found, under unique names, with a card for each model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shimmy.discovery.names import name_models
from shimmy.errors import ConfigError, GGUFError, ModelError, ModelNotFoundError, did_you_mean
from shimmy.gguf.card import ModelCard, read_card
from shimmy.gguf.reader import GGUFFile, open_gguf

if TYPE_CHECKING:
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings

__all__ = ["Catalog", "DiscoverySource", "FoundModel", "ModelCard", "Skipped"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file a source reports; ``name`` is the source's proposal, the catalog has the last word."""

    name: str
    path: Path
    source: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that gives no model, and why; ``path`` None: the source itself failed."""

    path: Path | None
    source: str
    reason: str


class DiscoverySource(Protocol):
    """Scans one kind of place. Runs in a thread; reports, and survives, what it cannot read."""

    def scan(self, settings: Settings) -> Iterable[FoundModel | Skipped]: ...


@dataclass(frozen=True, slots=True)
class _Scan:
    """The outcome of asking all sources."""

    models: dict[str, FoundModel] = field(default_factory=dict)
    aliases: dict[str, FoundModel] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    def find(self, name: str) -> tuple[str, FoundModel] | None:
        if name in self.models:
            return name, self.models[name]
        if (model := self.aliases.get(name)) is None:
            return None
        return next(known for known, found in self.models.items() if found is model), model


class Catalog:
    """The models at hand. Sources are asked at first use and by :meth:`refresh`; safe in threads.

    A file is opened when its card is asked for, and again only after it has changed.
    """

    def __init__(self, settings: Settings, plugins: Plugins) -> None:
        self._settings = settings
        self._plugins = plugins
        self._lock = threading.RLock()
        self._scan: _Scan | None = None
        self._read: dict[tuple[Path, str, int, int], ModelCard | Skipped] = {}

    def refresh(self) -> None:
        """Ask all sources again.

        Raises:
            ConfigError: a setting names a file that does not exist.
        """
        found: dict[Path, FoundModel] = {}
        skipped: list[Skipped] = []
        for report in self._reports():
            if isinstance(report, Skipped):
                skipped.append(report)
            else:
                # The same file through two sources, or through a link, counts once.
                found.setdefault(report.path.resolve(), report)
        with self._lock:
            self._scan = _Scan(*name_models(list(found.values())), tuple(skipped))

    def names(self) -> list[str]:
        """The names of all files found, without opening any; not each may turn out to be a model."""
        return sorted(self._scanned().models)

    def models(self) -> list[ModelCard]:
        """The cards of all language models, by name."""
        return sorted(
            (card for card in self._examined() if isinstance(card, ModelCard)), key=lambda card: card.name
        )

    @property
    def skipped(self) -> list[Skipped]:
        """What was found and is no model that shimmy can run, with reasons."""
        files = [row for row in self._examined() if isinstance(row, Skipped)]
        return [*self._scanned().skipped, *files]

    def get(self, name: str) -> ModelCard:
        """The card of the model a request names: by name, by alias, or by a plugin's answer.

        Raises:
            ModelNotFoundError: nobody knows the name.
            ModelError: the file is there, but is no language model that shimmy can run.
        """
        if known := self._scanned().find(name):
            return self._card(*known)
        if (resolved := self._plugins.resolve_model(name)) is not None:
            return self._card(name, resolved)
        raise ModelNotFoundError(f"there is no model {name!r}.", hint=self._advice(name), param="model")

    def default(self) -> ModelCard:
        """The model to use when none is named: ``base_gguf`` if that is set, else the first by name.

        Raises:
            ModelNotFoundError: there is no model at all, or no source looks where ``base_gguf`` is.
            ModelError: ``base_gguf`` is no language model that shimmy can run.
        """
        if self._settings.base_gguf is not None:
            wanted = self._settings.base_gguf.resolve()
            for name, found in self._scanned().models.items():
                if found.path.resolve() == wanted:
                    return self._card(name, found)
            raise ModelNotFoundError(
                f"no discovery source reports base_gguf, {str(self._settings.base_gguf)!r}.",
                hint="`shimmy plugins` shows whether the plugin that looks there is disabled.",
            )
        if models := self.models():
            return models[0]
        raise ModelNotFoundError("there is no model.", hint=self._advice(""), param="model")

    def _scanned(self) -> _Scan:
        with self._lock:
            if self._scan is None:
                self.refresh()
            assert self._scan is not None
            return self._scan

    def _reports(self) -> Iterator[FoundModel | Skipped]:
        for spec in self._plugins.discovery_sources:
            try:
                yield from spec.load().scan(self._settings)
            except ConfigError:
                raise
            except Exception as error:
                _logger.exception("discovery source %r failed; going on without it.", spec.name)
                yield Skipped(None, spec.name, f"the source failed: {type(error).__name__}: {error}")

    def _examined(self) -> list[ModelCard | Skipped]:
        return [self._examine(name, found) for name, found in self._scanned().models.items()]

    def _card(self, name: str, found: FoundModel) -> ModelCard:
        card = self._examine(name, found)
        if isinstance(card, Skipped):
            raise ModelError(f"model {name!r} cannot be used: {card.reason}", param="model")
        return card

    def _examine(self, name: str, found: FoundModel) -> ModelCard | Skipped:
        try:
            status = found.path.stat()
        except OSError as error:
            return Skipped(found.path, found.source, f"cannot be read: {error.strerror}")
        key = (found.path, name, status.st_size, status.st_mtime_ns)
        with self._lock:
            if key not in self._read:
                self._read[key] = self._open(name, found)
            return self._read[key]

    def _open(self, name: str, found: FoundModel) -> ModelCard | Skipped:
        try:
            with open_gguf(found.path) as file:
                card = read_card(file, name=name, source=found.source, quant_types=self._plugins.quant_types)
                reason = self._why_not(card, file)
        except GGUFError as error:
            reason = str(error)
        return Skipped(found.path, found.source, reason) if reason else card

    def _why_not(self, card: ModelCard, file: GGUFFile) -> str | None:
        """Why a readable file is no model to serve; None if it is one."""
        kind = file.metadata.get("general.type", "model")
        if kind != "model":
            return f"its general.type is {kind!r}, not 'model'."
        if "tokenizer.ggml.model" not in file.metadata:
            return f"it has no vocabulary ({card.architecture!r}), so it is no language model."
        if card.architecture not in self._plugins.architectures:
            return f"no plugin provides its architecture {card.architecture!r}."
        return None

    def _advice(self, name: str) -> str:
        names = self.names()
        if names:
            return did_you_mean(name, names) if name else "`shimmy list --all` says why none can be used."
        return "Name a GGUF file with --base-gguf, or a folder of them with --models-dir."
