"""SentencePiece unigram: of all ways to cut a text into pieces, the likeliest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tokenizers import Regex
from tokenizers.models import Unigram
from tokenizers.normalizers import Normalizer, Precompiled, Replace
from tokenizers.normalizers import Sequence as Steps

from shimmy.errors import TokenizerError
from shimmy.text.tokenizer import Tokenizer
from shimmy.text.vocabulary import (
    TokenType,
    Vocabulary,
    read_array,
    read_flag,
    read_vocabulary,
)
from shimmy_plugins.tokenizers.pipeline import Pipeline, PipelineTokenizer
from shimmy_plugins.tokenizers.spm import space_normalizer, spaces_to_bytes

#: T5's own numbers, for files that leave them out.
DEFAULT_IDS = {"eos_token_id": 1, "unknown_token_id": 2}


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file whose ``tokenizer.ggml.model`` is "t5"."""
    vocabulary = read_vocabulary(metadata, default_ids=DEFAULT_IDS)
    scores = read_array(metadata, "scores", float, length=len(vocabulary.tokens))
    space_prefix = read_flag(metadata, "add_space_prefix", True)
    pipeline = Pipeline(
        model=_model(vocabulary, scores),
        normalizer=Steps([*_normalizers(metadata), space_normalizer(space_prefix)]),
        to_bytes=spaces_to_bytes,
        space_prefix=space_prefix,
    )
    return PipelineTokenizer(vocabulary, pipeline)


def _model(vocabulary: Vocabulary, scores: Collection[float]) -> Unigram:
    kinds = vocabulary.types
    best = max(
        (score for kind, score in zip(kinds, scores, strict=True) if kind == TokenType.NORMAL), default=0.0
    )
    # The model wants a piece for each id. Those that text must not become get a spelling that no
    # text has, and a score that is not the lowest, on which that of unknown characters depends.
    pieces = [
        (text, score) if kind in (TokenType.NORMAL, TokenType.BYTE) else (f"\ufdd1{token}", best)
        for token, (text, kind, score) in enumerate(zip(vocabulary.tokens, kinds, scores, strict=True))
    ]
    return Unigram(pieces, vocabulary.unknown_id, byte_fallback=TokenType.BYTE in kinds)


def _normalizers(metadata: Mapping[str, Any]) -> Iterator[Normalizer]:
    """What happens to characters and spaces before the text is cut."""
    if "tokenizer.ggml.precompiled_charsmap" in metadata:
        rules = read_array(metadata, "precompiled_charsmap", int)
        try:
            yield Precompiled(bytes(byte & 0xFF for byte in rules))
        except Exception as error:  # the library raises nothing more special
            raise TokenizerError(
                f"'tokenizer.ggml.precompiled_charsmap' cannot be read: {error}.",
                hint="It should be the compiled rules of a SentencePiece model.",
            ) from error
    if read_flag(metadata, "remove_extra_whitespaces", False):
        yield Replace(Regex(r"\A +| +\z"), "")
        yield Replace(Regex(" {2,}"), " ")
