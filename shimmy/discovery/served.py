"""Names of the user's own making for models: the setting ``served_model_name``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shimmy.discovery.records import FoundModel
from shimmy.errors import ConfigError

KEY = "served_model_name"


def served_names(entries: Iterable[str]) -> dict[str, str | None]:
    """``ALIAS`` and ``NAME=ALIAS`` as alias -> name; None is the default model.

    Raises:
        ConfigError: an entry lacks a name, or one alias is given to two models.
    """
    served: dict[str, str | None] = {}
    for entry in entries:
        name, equals, alias = (part.strip() for part in entry.rpartition("="))
        if not alias or (equals and not name):
            raise ConfigError(f"{KEY} has {entry!r}, expected ALIAS or NAME=ALIAS.", param=KEY)
        target = name or None
        if served.setdefault(alias, target) != target:
            raise ConfigError(f"{KEY} gives {alias!r} to two models.", hint="Drop one of them.", param=KEY)
    return served


def check_served_names(served: Mapping[str, str | None], models: Mapping[str, FoundModel]) -> None:
    """Raise ConfigError where an alias is the name of another model."""
    for alias, name in served.items():
        if alias in models and name != alias:
            raise ConfigError(
                f"{KEY} makes {alias!r} an alias, but a model has that name: {models[alias].path}.",
                hint="Choose another alias.",
                param=KEY,
            )
