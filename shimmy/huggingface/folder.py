"""A Hugging Face model folder: which files it has, and what they say without reading a weight."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.errors import ModelError

if TYPE_CHECKING:
    from shimmy.huggingface.safetensors import StoredTensor

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
ADDED_TOKENS = "added_tokens.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
#: Files besides the weights that decide what becomes of a folder.
TEXTS = (
    CONFIG,
    INDEX,
    TOKENIZER,
    SENTENCEPIECE,
    ADDED_TOKENS,
    TOKENIZER_CONFIG,
    GENERATION_CONFIG,
    CHAT_TEMPLATE,
    "chat_template.json",
    SPECIAL_TOKENS,
)
#: What a folder of adapters has: it is no model.
ADAPTER_CONFIG = "adapter_config.json"
#: The endings of weights that would run code as they are read.
PICKLED = (".bin", ".pt", ".pth")
#: No honest text file is larger; tokenizers of the largest vocabularies take a tenth.
MOST_TEXT_BYTES = 2**28

_AGAIN = "The folder is incomplete or damaged: copy or download it again."
_SAFE = (
    "Convert them where they come from: `AutoModelForCausalLM.from_pretrained(folder)"
    ".save_pretrained(folder, safe_serialization=True)`."
)


def is_model_folder(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is one model's, complete or not."""
    present = set(names)
    if CONFIG not in present or ADAPTER_CONFIG in present:
        return False
    return any(name.endswith(".safetensors") or _is_pickled(name) for name in present) or INDEX in present


def _is_pickled(name: str) -> bool:
    return name.startswith("pytorch_model") and name.endswith(PICKLED)


@dataclass(frozen=True)
class ModelFolder:
    """A folder; what its files say is read when it is asked for, and then remembered.

    All its properties raise ModelError, which names the file, where one is missing or damaged.
    """

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return self.json(CONFIG)

    @property
    def model_class(self) -> str:
        """The class that computes the model, as Hugging Face calls it: ``LlamaForCausalLM``."""
        classes = self.config.get("architectures")
        if not (isinstance(classes, list) and classes and isinstance(classes[0], str)):
            raise ModelError(f"{self.path / CONFIG}: has no 'architectures', so nothing says how to run it.")
        return classes[0]

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors files; in the index's order, all there."""
        if (self.path / WEIGHTS).is_file():
            return (self.path / WEIGHTS,)
        if (self.path / INDEX).is_file():
            return self._shards()
        if others := sorted(self.path.glob("*.safetensors")):
            return tuple(others)
        pickled = [entry.name for entry in self.path.iterdir() if entry.name.endswith(PICKLED)]
        if pickled:
            raise ModelError(
                f"{self.path}: has its weights in {pickled[0]!r} only, which would run code as it is read.",
                hint=_SAFE,
            )
        raise ModelError(f"{self.path}: has no {WEIGHTS!r}.", hint=_AGAIN)

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """All tensors by name, none of them read."""
        from shimmy.huggingface.safetensors import read_headers

        return read_headers(list(self.weight_files))

    @property
    def size_bytes(self) -> int:
        """Of the weights."""
        return sum(path.stat().st_size for path in self.weight_files)

    def files(self) -> list[Path]:
        """All files that decide what becomes of the folder, those that exist."""
        texts = [self.path / name for name in TEXTS]
        return [*(path for path in texts if path.is_file()), *self.weight_files]

    def json(self, name: str) -> dict[str, Any]:
        """A file that must be there and hold an object."""
        path = self.path / name
        try:
            content = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path}: is no JSON ({error}).", hint=_AGAIN) from error
        if not isinstance(content, dict):
            raise ModelError(f"{path}: holds {type(content).__name__}, expected an object.", hint=_AGAIN)
        return content

    def json_if_any(self, name: str) -> dict[str, Any]:
        """A file that need not be there; then empty."""
        return self.json(name) if (self.path / name).is_file() else {}

    def text(self, name: str) -> str:
        """The text of a file that must be there."""
        path = self.path / name
        try:
            if path.stat().st_size > MOST_TEXT_BYTES:
                raise ModelError(f"{path}: is larger than {MOST_TEXT_BYTES >> 20} MiB.", hint=_AGAIN)
            return path.read_text("utf-8")
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror or error}.", hint=_AGAIN) from error
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: is no UTF-8 ({error.reason}).", hint=_AGAIN) from error

    def _shards(self) -> tuple[Path, ...]:
        places = self.json(INDEX).get("weight_map")
        if not (isinstance(places, dict) and all(isinstance(name, str) for name in places.values())):
            raise ModelError(f"{self.path / INDEX}: has no 'weight_map' of file names.", hint=_AGAIN)
        names = list(dict.fromkeys(places.values()))
        if strange := [name for name in names if Path(name).name != name]:
            raise ModelError(f"{self.path / INDEX}: names {strange[0]!r}, which is not in the folder.")
        if missing := [name for name in names if not (self.path / name).is_file()]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ModelError(
                f"{self.path}: {missing[0]!r}{more} of {len(names)} weight files is missing.", hint=_AGAIN
            )
        return tuple(self.path / name for name in names)
