"""What trainers leave in folders: adapters, their checkpoints, and adapters converted to GGUF."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.discovery.records import FoundAdapter
from shimmy.discovery.scan import is_model_file
from shimmy.errors import AdapterError, ConfigError, GGUFError
from shimmy.gguf.reader import peek_gguf

if TYPE_CHECKING:
    from shimmy.settings import Settings

#: One of these makes a folder an adapter's, if only a broken one.
_MARKS = frozenset(
    {
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.safetensors.index.json",
        "adapter_model.bin",
        "adapters.safetensors",
    }
)
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")


def chosen_adapter(settings: Settings, source: str) -> FoundAdapter:
    """The adapter that the setting ``lora_gguf`` names, by its folder, a file of it, or a GGUF file."""
    from shimmy.lora.read import adapter_place

    path = settings.lora_gguf
    assert path is not None
    try:
        place = adapter_place(path.absolute())
    except AdapterError as error:
        origin = settings.origin("lora_gguf")
        raise ConfigError(
            f"lora_gguf is {str(path)!r} (from {origin}): {error.message}", hint=error.hint, param="lora_gguf"
        ) from None
    if place.is_dir() and not _is_adapter(_names(place)):
        # A trainer's output folder, whose weights are in checkpoints so far.
        for found in find_adapters(place, source):
            return replace(found, chosen=True)
    return replace(_found(place, source), chosen=True)


def find_adapters(root: Path, source: str) -> Iterator[FoundAdapter]:
    """The adapters below a folder, in stable order.

    ``checkpoint-N`` folders are called ``NAME@checkpoint-N`` after the folder they are in. Where that
    holds no final weights, the latest checkpoint stands for it, too.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in seen
        )
        here = Path(folder)
        checkpoints = [] if _is_adapter(names) else _checkpoints(here, subfolders)
        if checkpoints:
            yield FoundAdapter(here.name, checkpoints[-1], source)
        elif _is_adapter(names):
            yield _found(here, source)
        for name in sorted(names):
            if is_model_file(name) and _is_gguf_adapter(here / name):
                yield _found(here / name, source)


def _found(place: Path, source: str) -> FoundAdapter:
    if place.suffix == ".gguf":
        return FoundAdapter(place.stem, place, source)
    if _CHECKPOINT.match(place.name):
        return FoundAdapter(f"{place.parent.name}@{place.name}", place, source)
    return FoundAdapter(place.name, place, source)


def _checkpoints(folder: Path, subfolders: list[str]) -> list[Path]:
    """The checkpoints in a folder that hold an adapter, the latest last."""
    numbered = sorted((int(match[1]), name) for name in subfolders if (match := _CHECKPOINT.match(name)))
    return [folder / name for _, name in numbered if _is_adapter(_names(folder / name))]


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []  # may not be read


def _is_adapter(names: list[str]) -> bool:
    return not _MARKS.isdisjoint(names)


def _is_gguf_adapter(path: Path) -> bool:
    try:
        return peek_gguf(path)[0].get("general.type") == "adapter"
    except GGUFError:
        return False  # whoever looks for models will say what is wrong with it
