"""From a model and the settings to a report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shimmy.engine.choice import choose_backend
from shimmy.engine.load import limits_for, record_model
from shimmy.engine.offload import divided
from shimmy.engine.plan import Progress
from shimmy.engine.settings import EngineSettings
from shimmy_plugins.commands.verify.checks import Verdict, verify
from shimmy_plugins.commands.verify.references import references
from shimmy_plugins.commands.verify.report import Report

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings


def run(
    card: ModelCard, settings: Settings, plugins: Plugins, progress: Progress, answers: str | None = None
) -> Report:
    """Compare the engine that the settings choose with the definitions, and with ``answers`` on record.

    Raises:
        ShimmyError: the model or the answers cannot be read, or the engine cannot compute it.
    """
    started = time.monotonic()
    engine = EngineSettings.of(settings)
    model = record_model(card.path, card.name, engine, plugins, progress)
    name, _, chosen = choose_backend(model.card, engine, plugins)
    backend, note = divided(name, chosen, engine, plugins)
    limits = limits_for(model.context, engine, backend)
    on_record = list(references(model, backend, limits, progress, answers)) if answers else []
    verdict = verify(model, backend, limits, progress)
    verdict = Verdict(verdict.facts, [*verdict.checks, *on_record])
    return Report(card.name, str(card.path), name, time.monotonic() - started, verdict, note)
