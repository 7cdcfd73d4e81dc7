"""Text to the ids of a model, for requests to its servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shimmy.gguf.reader import open_gguf
from shimmy.plugins import Plugins
from shimmy.text.tokenizer import load_tokenizer


def text_encoder(path: Path, plugins: Plugins) -> Callable[[str], list[int]]:
    """Encodes with the vocabulary of a GGUF file."""
    with open_gguf(path) as file:
        return load_tokenizer(file.metadata, plugins.tokenizers).encode
