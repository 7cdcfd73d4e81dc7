"""What the sources report at one time, sorted out: models and adapters under unique names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from shimmy.discovery.adapters import Pairs
from shimmy.discovery.checkpoints import name_checkpoints
from shimmy.discovery.names import all_spellings, name_models, plain_name
from shimmy.discovery.records import FoundAdapter, FoundModel, Report, Searched, Skipped
from shimmy.discovery.unique import unique_models

if TYPE_CHECKING:
    from shimmy.discovery.judge import Judge
    from shimmy.gguf.card import ModelCard

#: Places whose news are not taken yet -> why.
Held = Mapping[Path, str]
NOTHING: Held = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Survey:
    """The outcome of asking all sources."""

    models: Mapping[str, FoundModel] = field(default_factory=dict)
    aliases: Mapping[str, FoundModel] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    searched: tuple[Searched, ...] = ()
    pairs: Pairs | None = None
    """The adapters; None: there are none."""
    held: Held = field(default_factory=lambda: NOTHING)

    def names(self) -> list[str]:
        """Of models and adapters, without opening a file."""
        return sorted([*self.models, *(self.pairs.names() if self.pairs else ())])

    def clashes(self) -> dict[str, list[str]]:
        """Names that several models or adapters would have, each with the names that they have instead."""
        plain = {name: plain_name(found) for name, found in self.models.items()}
        plain |= self.pairs.plain_names() if self.pairs else {}
        wanted: dict[str, list[str]] = {}
        for name in sorted(plain):
            wanted.setdefault(plain[name], []).append(name)
        return {name: names for name, names in sorted(wanted.items()) if len(names) > 1}

    def meant_by(self, name: str) -> list[str]:
        """The names of those that may be called so; several, if ``name`` is too short to tell them apart."""
        models = [known for known, found in self.models.items() if name in all_spellings(found)]
        adapters = self.pairs.plain_names() if self.pairs else {}
        return sorted([*models, *(known for known, plain in adapters.items() if plain == name)])

    def adapters(self) -> dict[str, ModelCard | Skipped]:
        """Each with its base, or why it has none. Looks at files: call it in a thread."""
        return self.pairs.results() if self.pairs else {}

    def find(self, name: str) -> tuple[str, FoundModel] | None:
        """A model by its name or another spelling, with its name."""
        if name in self.models:
            return name, self.models[name]
        if (model := self.aliases.get(name)) is None:
            return None
        return next(known for known, found in self.models.items() if found is model), model

    def knows(self, place: Path) -> bool:
        """Whether a model or an adapter lies exactly there."""
        adapters = self.pairs.places() if self.pairs else ()
        return place in adapters or any(model.path == place for model in self.models.values())


def sort_out(
    reports: Iterable[Report],
    judge: Judge,
    pair: Callable[[Sequence[FoundAdapter], Mapping[str, FoundModel]], Pairs],
    held: Held,
    before: Survey,
) -> Survey:
    """The survey of these reports.

    Args:
        reports: of all sources.
        judge: tells which checkpoints can be used.
        pair: adapters with their bases, given the models by name.
        held: places, of which new ones are left out; adapters known before stay as they were.
        before: what was known before.
    """
    taken, skipped = [], []
    for report in reports:
        if (
            isinstance(report, FoundModel | FoundAdapter)
            and report.path in held
            and not before.knows(report.path)
        ):
            skipped.append(Skipped(report.path, report.source, held[report.path]))
        else:
            taken.append(report)
    found, unusable = unique_models(report for report in taken if isinstance(report, FoundModel))
    adapters = {each.path: each for each in reversed(taken) if isinstance(each, FoundAdapter)}
    unpaired = list(name_checkpoints([*adapters.values()][::-1], judge.is_usable))
    models, aliases = name_models(
        list(name_checkpoints([model for model in found if model.path not in adapters], judge.is_usable))
    )
    pairs = pair(unpaired, models) if unpaired else None
    if pairs and before.pairs:
        pairs.keep(before.pairs, held)
    skipped += [report for report in taken if isinstance(report, Skipped)]
    searched = tuple(report for report in taken if isinstance(report, Searched))
    return Survey(models, aliases, (*skipped, *unusable), searched, pairs, held)
