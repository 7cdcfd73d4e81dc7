"""Names of the user's own making for models: the setting ``served_model_name``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shimmy.discovery.records import FoundModel
from shimmy.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from shimmy.settings import Settings

KEY = "served_model_name"


def served_names(settings: Settings) -> dict[str, str | None]:
    """The entries ``NAME`` and ``MODEL=NAME`` as name -> model; None is the default model.

    Raises:
        ConfigError: an entry lacks a name, or one name is given to two models.
    """
    served: dict[str, str | None] = {}
    for entry in settings.served_model_name:
        model, equals, name = (part.strip() for part in entry.rpartition("="))
        if not name or (equals and not model):
            raise _error(f"has {entry!r} (from {settings.origin(KEY)}), expected NAME or MODEL=NAME.")
        if served.setdefault(name, model or None) != (model or None):
            raise _error(f"gives {name!r} to two models.", "Drop one of them.")
    return served


def check_served_names(served: Mapping[str, str | None], models: Mapping[str, FoundModel]) -> None:
    """Raise ConfigError where a name belongs to another model already."""
    for name, model in served.items():
        if name in models and model != name:
            taken = f"gives a model the name {name!r}, but {models[name].path} has it already."
            raise _error(taken, "Choose another name.")


def unknown_model(error: ModelNotFoundError) -> ConfigError:
    """What is wrong with an entry whose model is not there; ``error`` says which, and what comes near."""
    return _error(f"gives a name to a model, but {error.message}", error.hint)


def _error(problem: str, hint: str | None = None) -> ConfigError:
    return ConfigError(f"{KEY} {problem}", hint=hint, param=KEY)
