"""Byte-level BPE: words are cut out first, then merged byte by byte in the order of the merge list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps

from shimmy.errors import TokenizerError
from shimmy.text.tokenizer import Tokenizer
from shimmy.text.vocabulary import Vocabulary, read_array, read_vocabulary
from shimmy_plugins.tokenizers.pipeline import Pipeline, PipelineTokenizer
from shimmy_plugins.tokenizers.pretokenizers import pre_tokenizer


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file whose ``tokenizer.ggml.model`` is "gpt2"."""
    words = pre_tokenizer(metadata.get("tokenizer.ggml.pre"))
    vocabulary = read_vocabulary(metadata, add_bos=words.add_bos)
    merges = read_array(metadata, "merges", str)
    pipeline = Pipeline(
        model=merges_model(vocabulary, merges, ignore_merges=words.ignore_merges),
        pre_tokenizer=Steps(
            [Split(Regex(expression), "isolated") for expression in words.splits]
            + [ByteLevel(add_prefix_space=False, use_regex=False)]
        ),
        to_bytes=byte_level_bytes,
    )
    return PipelineTokenizer(vocabulary, pipeline)


def merges_model(vocabulary: Vocabulary, merges: Sequence[str], **options: bool) -> BPE:
    """The model that merges pairs of tokens in the order of ``merges``; ``options`` are the library's."""
    try:
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    except ValueError:
        wrong = next(merge for merge in merges if merge.count(" ") != 1)
        raise TokenizerError(
            f"'tokenizer.ggml.merges' holds {wrong!r}; expected two tokens with a space between them."
        ) from None
    ids = {text: token for token, text in enumerate(vocabulary.tokens)}
    try:
        return BPE(ids, pairs, **options)
    except Exception as error:  # the library raises nothing more special
        raise TokenizerError(f"'tokenizer.ggml.merges' does not fit the vocabulary: {error}.") from error


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte: itself where it is printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def byte_level_bytes(text: str) -> bytes:
    """The bytes of a token in the alphabet of bytes."""
    try:
        return bytes([_BYTE_OF[character] for character in text])
    except KeyError:  # a token added in plain text and typed as normal
        return text.encode()
