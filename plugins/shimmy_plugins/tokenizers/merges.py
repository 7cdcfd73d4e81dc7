"""BPE by a list of merges over whole lines: spaces are U+2581, characters without a token are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from shimmy.text.tokenizer import Tokenizer
from shimmy.text.vocabulary import read_array, read_flag, read_vocabulary
from shimmy_plugins.tokenizers.bpe import merges_model
from shimmy_plugins.tokenizers.pipeline import Pipeline, PipelineTokenizer
from shimmy_plugins.tokenizers.spm import space_normalizer, spaces_to_bytes


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file whose ``tokenizer.ggml.model`` is "gemma4"."""
    vocabulary = read_vocabulary(metadata, add_bos=True)
    space_prefix = read_flag(metadata, "add_space_prefix", False)
    pipeline = Pipeline(
        model=merges_model(vocabulary, read_array(metadata, "merges", str), byte_fallback=True),
        normalizer=space_normalizer(space_prefix),
        pre_tokenizer=Split(Regex(r"[^\n]+|\n+"), "isolated"),
        to_bytes=spaces_to_bytes,
        space_prefix=space_prefix,
    )
    return PipelineTokenizer(vocabulary, pipeline)
