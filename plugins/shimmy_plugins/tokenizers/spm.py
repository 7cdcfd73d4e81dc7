"""SentencePiece BPE: no words; the best-scored piece that two neighbours form is merged first.

Spaces are written U+2581, the text gets one in front, and characters without a piece become bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tokenizers.models import BPE
from tokenizers.normalizers import Normalizer, Prepend, Replace
from tokenizers.normalizers import Sequence as Steps

from shimmy.caches import cache_folder
from shimmy.text.tokenizer import Tokenizer
from shimmy.text.vocabulary import (
    CONTROL_TYPES,
    TokenType,
    Vocabulary,
    read_array,
    read_flag,
    read_vocabulary,
)
from shimmy_plugins.tokenizers.pipeline import Pipeline, PipelineTokenizer
from shimmy_plugins.tokenizers.remembered_merges import remembered

SPACE = "\u2581"

#: SentencePiece's own numbers, for old files that leave them out.
DEFAULT_IDS = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file whose ``tokenizer.ggml.model`` is "llama"."""
    vocabulary = read_vocabulary(metadata, add_bos=True, default_ids=DEFAULT_IDS)
    scores = read_array(metadata, "scores", float, length=len(vocabulary.tokens))
    space_prefix = read_flag(metadata, "add_space_prefix", True)
    pipeline = Pipeline(
        model=_model(vocabulary, scores),
        normalizer=space_normalizer(space_prefix),
        to_bytes=spaces_to_bytes,
        space_prefix=space_prefix,
        swallow_space=_swallow_space(metadata, vocabulary),
    )
    return PipelineTokenizer(vocabulary, pipeline)


def _model(vocabulary: Vocabulary, scores: Collection[float]) -> BPE:
    kinds = vocabulary.types
    ids = {text: token for token, text in enumerate(vocabulary.tokens) if kinds[token] != TokenType.UNUSED}
    # Only normal pieces merge: text must never turn into a control token by itself.
    pieces = {
        text: score
        for text, kind, score in zip(vocabulary.tokens, kinds, scores, strict=True)
        if kind == TokenType.NORMAL
    }
    unknown = None if vocabulary.unknown_id is None else vocabulary.tokens[vocabulary.unknown_id]
    merges = remembered(merges_of, pieces, cache_folder() / "merges")
    return BPE(ids, merges, unk_token=unknown, byte_fallback=True)


def merges_of(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that form a piece, best-scored piece first.

    Among equal scores SentencePiece merges the leftmost, which a list cannot say. Equals are the
    pairs that form one piece: merging from the left leaves the longer part on the left, so those
    come first. Different pieces of equal score (runs of spaces) keep the order of the vocabulary.
    """
    by_score = sorted(pieces, key=pieces.__getitem__, reverse=True)
    return [
        (piece[:cut], piece[cut:])
        for piece in by_score
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]


def space_normalizer(space_prefix: bool) -> Normalizer:
    """Spaces as SentencePiece writes them, with one in front if it is to be so."""
    spaces = Replace(" ", SPACE)
    return Steps([Prepend(SPACE), spaces]) if space_prefix else spaces


def _swallow_space(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Collection[str]:
    """Phi-3's special tokens take the whitespace after them. No key says so, only the model's name."""
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return ()
    special = vocabulary.ids(TokenType.USER_DEFINED, *CONTROL_TYPES)
    return frozenset(special) - {"<unk>", "<s>", "<|endoftext|>"}


def spaces_to_bytes(text: str) -> bytes:
    """The bytes of a piece, in which SentencePiece wrote spaces its own way."""
    return text.replace(SPACE, " ").encode()
