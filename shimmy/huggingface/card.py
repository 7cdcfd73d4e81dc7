"""A model folder's card: what config.json and the heads of the weight files say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from shimmy.gguf.card import ModelCard
from shimmy.huggingface.folder import ModelFolder
from shimmy.huggingface.model import FolderModel
from shimmy.huggingface.templates import has_template
from shimmy.huggingface.tokenizer import require_tokenizer

if TYPE_CHECKING:
    from shimmy.hooks import Plugins


def folder_card(path: Path, quantize: str, plugins: Plugins) -> ModelCard:
    """The nameless card of a folder; ``quantize`` is the type that its weights are converted to.

    Raises:
        ModelError: the folder cannot be converted, as far as can be told without reading weights.
    """
    folder = ModelFolder(path)
    model = FolderModel(folder, plugins)
    require_tokenizer(folder)
    return ModelCard(
        name="",
        path=path,
        source="",
        size_bytes=folder.size_bytes,
        architecture=model.architecture,
        parameters=sum(math.prod(tensor.shape) for tensor in folder.tensors.values()),
        quantization=quantize.upper(),
        context_length=model.config_metadata.get(f"{model.architecture}.context_length"),
        has_chat_template=has_template(folder),
    )
