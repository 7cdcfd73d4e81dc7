"""A model's card: what its file says of it, read without loading a tensor. No NumPy."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shimmy.errors import GGUFError
from shimmy.gguf.reader import GGUFFile
from shimmy.gguf.types import HOW_TO_ADD, no_plugin_provides, type_name, types_by_id
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec

MAX_ARCHITECTURE_NAME = 64


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a file's metadata says of a model, without loading it."""

    name: str
    path: Path
    source: str
    """The discovery source that found it."""
    size_bytes: int
    architecture: str
    parameters: int | None
    """Weights; None as long as only the metadata have been read (:func:`glance`)."""
    quantization: str | None
    """The type holding most of the weights' bytes, as ggml names it; None as for ``parameters``."""
    context_length: int | None
    """Positions the model was trained for; None if the file does not say."""
    has_chat_template: bool
    adapter: Path | None = None
    """The LoRA adapter that is applied: its folder, or its GGUF file. All else is the base's."""
    base: ModelCard | None = None
    """With an adapter, the model without it."""


def read_card(file: GGUFFile, *, name: str, source: str, quant_types: Registry[QuantTypeSpec]) -> ModelCard:
    """The card of an open file.

    Raises:
        GGUFError: it does not say what architecture it holds, or the data of a tensor is not all there.
    """
    card = glance(file.path, file.metadata, file.size_bytes)
    specs = types_by_id(quant_types)
    sizes: Counter[int] = Counter()
    for tensor in file.tensors.values():
        spec = specs.get(tensor.ggml_id)
        sizes[tensor.ggml_id] += file.n_bytes(tensor.name, spec) if spec else tensor.room
    return replace(
        card,
        name=name,
        source=source,
        parameters=sum(math.prod(t.shape) for t in file.tensors.values()),
        quantization=_type_name(sizes.most_common(1)[0][0], specs) if sizes else "none",
    )


def why_unreadable(file: GGUFFile, quant_types: Registry[QuantTypeSpec]) -> str | None:
    """The first tensor of a type that no plugin provides, and what would add it; None if there is none."""
    specs = types_by_id(quant_types)
    for tensor in file.tensors.values():
        if tensor.ggml_id not in specs:
            return f"{no_plugin_provides(tensor.name, tensor.ggml_id)}. {HOW_TO_ADD}"
    return None


def glance(path: Path, metadata: Mapping[str, Any], size_bytes: int) -> ModelCard:
    """The nameless card as far as metadata tell: nothing of what only the tensors say.

    Raises:
        GGUFError: they do not say what architecture the file holds.
    """
    architecture = _architecture(path, metadata)
    context = metadata.get(f"{architecture}.context_length")
    return ModelCard(
        name="",
        path=path,
        source="",
        size_bytes=size_bytes,
        architecture=architecture,
        parameters=None,
        quantization=None,
        context_length=context if type(context) is int and 0 < context < 2**31 else None,
        has_chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
    )


def _architecture(path: Path, metadata: Mapping[str, Any]) -> str:
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise GGUFError(
            f"{path}: has no 'general.architecture', so nothing says how to run it.",
            hint="Is it a model? Convert it anew with a current converter.",
        )
    # It is shown in listings and messages, so it must be fit to be seen.
    if not (0 < len(name) <= MAX_ARCHITECTURE_NAME and name.isprintable()):
        raise GGUFError(
            f"{path}: 'general.architecture' is {reprlib.repr(name)}, "
            f"expected 1 to {MAX_ARCHITECTURE_NAME} printable characters."
        )
    return name


def _type_name(ggml_id: int, specs: Mapping[int, QuantTypeSpec]) -> str:
    spec = specs.get(ggml_id)
    return spec.name if spec else type_name(ggml_id)
