"""What trainers leave in folders: adapters, their checkpoints, and adapters converted to GGUF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.discovery.checkpoints import checkpoint_name, proposed_name
from shimmy.discovery.records import FoundAdapter
from shimmy.discovery.scan import folders_below, is_model_file
from shimmy.errors import AdapterError, ConfigError, GGUFError
from shimmy.gguf.reader import peek_gguf

if TYPE_CHECKING:
    from shimmy.settings import Settings

#: One of these makes a folder an adapter's, if only a broken one.
MARKS = frozenset(
    {
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.safetensors.index.json",
        "adapter_model.bin",
        "adapters.safetensors",
    }
)


def chosen_adapters(settings: Settings, source: str) -> Iterator[FoundAdapter]:
    """The adapter that the setting ``lora_gguf`` names, by its folder, a file of it, or a GGUF file.

    Of a training all checkpoints, too: one of them stands for it as long as there are no final weights.
    """
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
    own = [FoundAdapter(_name(place), place, source)] if is_adapter(_names(place)) else []
    below = list(find_adapters(place, source)) if place.is_dir() else []
    checkpoints = [each for each in below if each.path.parent == place and each.name == place.name]
    # What is there at all, for the reason why it is of no use.
    for each in (*own, *checkpoints) or below[:1] or [FoundAdapter(_name(place), place, source)]:
        yield replace(each, chosen=True)


def find_adapters(root: Path, source: str) -> Iterator[FoundAdapter]:
    """The adapters below a folder, in stable order; checkpoints under the name of their training."""
    for folder, names in folders_below(root):
        if is_adapter(names):
            yield FoundAdapter(proposed_name(folder), folder, source)
        for name in sorted(names):
            if is_model_file(name) and _is_gguf_adapter(folder / name):
                yield FoundAdapter(_name(folder / name), folder / name, source)


def _name(place: Path) -> str:
    return place.stem if place.suffix == ".gguf" else checkpoint_name(place)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []  # a file, or it may not be read


def is_adapter(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is an adapter's, complete or not."""
    return not MARKS.isdisjoint(names)


def _is_gguf_adapter(path: Path) -> bool:
    try:
        return peek_gguf(path)[0].get("general.type") == "adapter"
    except GGUFError:
        return False  # whoever looks for models will say what is wrong with it
