"""Tokenizers by their own ``tokenizer.json``: its steps as they stand, without its special tokens' magic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as Encoder

from shimmy.errors import TokenizerError
from shimmy.text.tokenizer import HUGGINGFACE_JSON, Tokenizer
from shimmy.text.vocabulary import read_vocabulary
from shimmy_plugins.tokenizers.bpe import byte_level_bytes
from shimmy_plugins.tokenizers.pipeline import Pipeline, PipelineTokenizer
from shimmy_plugins.tokenizers.spm import spaces_to_bytes


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of metadata with a ``tokenizer.json``; roles of tokens are by the keys of ggml."""
    source = metadata[HUGGINGFACE_JSON]
    try:
        encoder = Encoder.from_str(source)
        steps = json.loads(source)
    except Exception as error:  # the library raises nothing more special
        raise TokenizerError(
            f"'{HUGGINGFACE_JSON}' cannot be read: {error}.", hint="Copy or download the model again."
        ) from error
    pipeline = Pipeline(
        model=encoder.model,
        normalizer=encoder.normalizer,
        pre_tokenizer=encoder.pre_tokenizer,
        to_bytes=byte_level_bytes if _has(steps, "ByteLevel") else spaces_to_bytes,
        space_prefix=_drops_first_space(steps.get("decoder")),
        added={token.content: token for token in encoder.get_added_tokens_decoder().values()},
    )
    return PipelineTokenizer(read_vocabulary(metadata), pipeline)


def _has(steps: Mapping[str, Any], kind: str) -> bool:
    return any(f'"{kind}"' in json.dumps(steps.get(step)) for step in ("pre_tokenizer", "decoder"))


def _drops_first_space(decoder: Mapping[str, Any] | None) -> bool:
    """Whether decoding takes the space away that encoding has put before a text."""
    if decoder is None:
        return False
    if decoder["type"] == "Metaspace":
        return bool(decoder.get("prepend_scheme", "always") != "never")
    if decoder["type"] == "Strip":
        return bool(decoder["content"] == " " and decoder["start"])
    return any(_drops_first_space(part) for part in decoder.get("decoders", ()))
