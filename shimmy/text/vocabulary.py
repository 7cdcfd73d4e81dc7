"""The vocabulary of a GGUF file: its ``tokenizer.ggml.*`` keys, checked, for any kind of tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from shimmy.errors import TokenizerError

T = TypeVar("T")

PREFIX = "tokenizer.ggml."

#: Metadata keys that name a token which ends a generation.
STOP_KEYS = (
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
)

#: Spellings that end a generation wherever they are not ordinary text: few files name their end
#: of turn by key. What follows the last ten, marks of infilling, would be another file.
STOP_TEXTS = frozenset(
    {
        *("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[EOS]"),
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<end_of_utterance>"),
        *("<EOT>", "_<EOT>", "[EOT]", "<turn|>", "[e~["),
        *("<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>"),
        *("<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<PAD>"),
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<reponame>", "<REPO>", "<|file_sep|>"),
    }
)


#: Spellings that end no generation where the vocabulary has one of these too: there, ``<|end|>`` only
#: ends a part of an answer, and ``</s>`` is a word like others.
STOP_TEXTS_UNLESS = {
    "<|end|>": frozenset({"<|call|>", "<|calls|>"}),
    "</s>": frozenset({"<|tool_response>"}),
}


class TokenType(IntEnum):
    """Values of ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


#: Tokens with a role instead of a text.
CONTROL_TYPES = frozenset({TokenType.UNKNOWN, TokenType.CONTROL})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, with what the file says of their roles."""

    tokens: Sequence[str]
    types: bytes
    """One :class:`TokenType` per token."""
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    add_bos: bool
    stop_ids: frozenset[int]

    def ids(self, *types: TokenType) -> dict[str, int]:
        """The spellings of all tokens of these types, with their ids."""
        return _ids(self.tokens, self.types, types)


def read_vocabulary(
    metadata: Mapping[str, Any], *, add_bos: bool = False, default_ids: Mapping[str, int] | None = None
) -> Vocabulary:
    """The vocabulary in ``metadata``; ``add_bos`` and ``default_ids`` stand in for keys it lacks.

    ``default_ids`` is keyed like the file: ``{"bos_token_id": 1}``.
    """
    tokens = read_array(metadata, "tokens", str)
    types = read_array(metadata, "token_type", int, length=len(tokens))
    if unknown := set(types) - set(TokenType):
        raise TokenizerError(
            f"'{PREFIX}token_type' holds {min(unknown)}; a token type is 1 (normal) to 6 (byte)."
        )
    defaults = default_ids or {}
    ids = {
        key: _token_id(metadata, key, defaults.get(key), len(tokens))
        for key in ("bos_token_id", "unknown_token_id", *STOP_KEYS)
    }
    kinds = bytes(types)
    named = {token for key in STOP_KEYS if (token := ids[key]) is not None}
    return Vocabulary(
        tokens=tokens,
        types=kinds,
        bos_id=ids["bos_token_id"],
        eos_id=ids["eos_token_id"],
        unknown_id=ids["unknown_token_id"],
        add_bos=ids["bos_token_id"] is not None and read_flag(metadata, "add_bos_token", add_bos),
        stop_ids=frozenset(named | _spelled_stops(tokens, kinds)),
    )


def _spelled_stops(tokens: Sequence[str], types: bytes) -> set[int]:
    """Ids of the tokens that end a generation by their spelling."""
    special = _ids(tokens, types, set(TokenType) - {TokenType.NORMAL})
    found = special.keys() & STOP_TEXTS
    return {special[text] for text in found if found.isdisjoint(STOP_TEXTS_UNLESS.get(text, ()))}


def _ids(tokens: Sequence[str], types: bytes, wanted: Iterable[TokenType]) -> dict[str, int]:
    # Nearly all tokens are normal: jumping from one of the wanted to the next is fast.
    found = {}
    for kind in wanted:
        token = types.find(kind)
        while token >= 0:
            found[tokens[token]] = token
            token = types.find(kind, token + 1)
    return found


def read_array(
    metadata: Mapping[str, Any], key: str, item: type[T], *, length: int | None = None
) -> Sequence[T]:
    """The array ``tokenizer.ggml.<key>`` as a list of ``item``; ``length`` is that of the tokens."""
    value = metadata.get(PREFIX + key)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        found = "is missing" if value is None else f"is {_shown(value)}"
        raise TokenizerError(f"'{PREFIX}{key}' {found}; expected an array of {item.__name__}.")
    if wrong := set(map(type, value)) - {item}:
        names = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise TokenizerError(f"'{PREFIX}{key}' holds {names}; expected only {item.__name__}.")
    if length is not None and len(value) != length:
        raise TokenizerError(
            f"'{PREFIX}{key}' has {len(value)} entries; expected {length}, one for each token."
        )
    return value


def read_flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    """The boolean ``tokenizer.ggml.<key>``, or ``default`` where the file has none."""
    value = metadata.get(PREFIX + key, default)
    if not isinstance(value, bool):
        raise TokenizerError(f"'{PREFIX}{key}' is {_shown(value)}; expected true or false.")
    return value


def _token_id(metadata: Mapping[str, Any], key: str, default: int | None, size: int) -> int | None:
    value = metadata.get(PREFIX + key, default)
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < size:
        raise TokenizerError(f"'{PREFIX}{key}' is {_shown(value)}; expected a token id below {size}.")
    return value


def _shown(value: object) -> str:
    return f"{str(value)[:40]!r} ({type(value).__name__})"
