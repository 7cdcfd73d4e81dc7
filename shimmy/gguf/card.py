"""A model's card: what its file says of it, read without loading a tensor. No NumPy."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from shimmy.errors import GGUFError
from shimmy.gguf.reader import GGUFFile
from shimmy.gguf.types import type_name, types_by_id
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a file's metadata says of a model, without loading it."""

    name: str
    path: Path
    source: str
    """The discovery source that found it."""
    size_bytes: int
    architecture: str
    parameters: int
    quantization: str
    """The type holding most of the weights' bytes, as ggml names it."""
    context_length: int | None
    """Positions the model was trained for; None if the file does not say."""
    has_chat_template: bool


def read_card(file: GGUFFile, *, name: str, source: str, quant_types: Registry[QuantTypeSpec]) -> ModelCard:
    """The card of an open file. Raises GGUFError when it does not say what architecture it holds."""
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise GGUFError(
            f"{file.path}: has no 'general.architecture', so nothing says how to run it.",
            hint="Is it a model? Convert it anew with a current converter.",
        )
    context = file.metadata.get(f"{architecture}.context_length")
    sizes: Counter[int] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.ggml_id] += tensor.room
    return ModelCard(
        name=name,
        path=file.path,
        source=source,
        size_bytes=file.size_bytes,
        architecture=architecture,
        parameters=sum(math.prod(t.shape) for t in file.tensors.values()),
        quantization=_name(sizes.most_common(1)[0][0], quant_types) if sizes else "none",
        context_length=context if type(context) is int and context > 0 else None,
        has_chat_template=isinstance(file.metadata.get("tokenizer.chat_template"), str),
    )


def _name(ggml_id: int, quant_types: Registry[QuantTypeSpec]) -> str:
    spec = types_by_id(quant_types).get(ggml_id)
    return spec.name if spec else type_name(ggml_id)
