"""Skeletons from their templates: a folder with a package, its tests and what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_SUFFIX = ".jinja"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of plugin that skeletons are written of."""

    what: str
    """For people, and the name of the folder of its templates."""
    prefix: str
    """Of the distribution's name."""
    names: str
    """A regular expression for the names that such things have."""
    example: str


ARCHITECTURE = Kind("architecture", "shimmy-arch", r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", "qwen3.5-moe")
QUANT = Kind("quant", "shimmy-quant", r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", "Q4_X")


def write_skeleton(kind: Kind, name: str, folder: Path | None = None, **more: Any) -> Path:
    """Write a skeleton, by default to a folder of its distribution's name; returns the folder.

    Raises:
        ConfigError: the name is none for such a thing, the folder is there, or cannot be written.
    """
    if not re.fullmatch(kind.names, name):
        raise ConfigError(f"{name!r} is no name of a new {kind.what}; expected one like {kind.example!r}.")
    words = re.split(r"[._-]", name.lower())
    distribution = "-".join((kind.prefix, *words))
    facts = {
        "name": name,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "class_name": "".join(word.capitalize() for word in words),
        **more,
    }
    folder = folder or Path(distribution)
    try:
        if folder.exists():
            raise ConfigError(f"{folder} is there already and stays as it is.", hint="Name another folder.")
        for path, text in _rendered(kind, facts):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}.") from error
    return folder


def _rendered(kind: Kind, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each file of a skeleton: its path and its content."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    for path, template in _templates(files("shimmy_templates") / "init" / kind.what):
        text = environment.from_string(template.read_text("utf-8")).render(facts)
        yield path.removesuffix(_SUFFIX).replace("MODULE", facts["module"]), text


def _templates(folder: Traversable, place: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{place}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield place + entry.name, entry
