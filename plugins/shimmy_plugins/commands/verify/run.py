"""From a model and the settings to a report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shimmy.engine.choice import choose_backend
from shimmy.engine.load import limits_for, record_model
from shimmy.engine.plan import Progress
from shimmy.engine.protocol import EngineSettings
from shimmy_plugins.commands.verify.checks import verify
from shimmy_plugins.commands.verify.report import Report

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard
    from shimmy.plugins import Plugins
    from shimmy.settings import Settings


def run(card: ModelCard, settings: Settings, plugins: Plugins, progress: Progress) -> Report:
    """Compare the engine that the settings choose with the definitions. Raises ShimmyError."""
    started = time.monotonic()
    engine = EngineSettings.of(settings)
    model = record_model(card.path, card.name, engine, plugins, progress)
    name, _, backend = choose_backend(model.card, engine, plugins)
    verdict = verify(model, backend, limits_for(model.context, engine, backend), progress)
    return Report(card.name, str(card.path), name, time.monotonic() - started, verdict)
