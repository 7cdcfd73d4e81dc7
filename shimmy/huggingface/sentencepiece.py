"""A folder's ``tokenizer.model``, as SentencePiece writes it, as GGUF metadata.

It is a protocol buffer, of which few fields matter; their numbers are those of
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shimmy.errors import TokenizerError
from shimmy.huggingface.folder import ADDED_TOKENS, MOST_TEXT_BYTES, SENTENCEPIECE, ModelFolder
from shimmy.huggingface.roles import Roles
from shimmy.text.vocabulary import PREFIX, TokenType

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SPACE_AS_SUFFIX = 3, 24
_BPE = 2
#: Fields of the trainer with the numbers of tokens, and SentencePiece's own for files that leave them out.
_ROLE_FIELDS = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
_CHARACTERS, _DUMMY_PREFIX, _REMOVES_SPACES = 2, 3, 4
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10
_ANOTHER = "Where it was trained: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`."

Value = int | bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    score: float
    type: int
    """A :class:`TokenType`: SentencePiece has the same numbers."""


def sentencepiece_metadata(folder: ModelFolder, rows: int | None) -> dict[str, Any]:
    """The ``tokenizer.*`` keys but chat templates.

    Args:
        folder: where the file is.
        rows: tokens the model has; those up to there without a text are unused.

    Raises:
        TokenizerError: the file is broken, or of a kind not known here.
        ModelError: another file cannot be read.
    """
    path = folder.path / SENTENCEPIECE
    try:
        return _metadata(folder, _content(path), rows)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error.message}", hint=error.hint) from None
    except (struct.error, KeyError, ValueError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"{path}: is not as SentencePiece writes it ({error!r:.80}).",
            hint="Copy or download the folder again.",
        ) from error


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_TEXT_BYTES:
            raise TokenizerError(f"is larger than {MOST_TEXT_BYTES >> 20} MiB.")
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot be read: {error.strerror or error}.") from error


def _metadata(folder: ModelFolder, content: bytes, rows: int | None) -> dict[str, Any]:
    pieces, sections = [], {_TRAINER: b"", _NORMALIZER: b""}
    for number, value in _fields(content):
        if number == _PIECES and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number in sections and isinstance(value, bytes):
            sections[number] = value
    trainer, normalizer = (dict(_fields(section)) for section in sections.values())
    _check(pieces, trainer, normalizer)
    pieces = _with_added(pieces, folder, rows)
    roles = Roles.of(folder)
    own = {f"{role}_token_id": _signed(trainer.get(*field)) for role, field in _ROLE_FIELDS.items()}
    roles = replace(roles, numbers={**own, **roles.numbers})
    by_text = {piece.text: token for token, piece in enumerate(pieces)}
    keys = {
        "model": "llama",
        "tokens": [piece.text for piece in pieces],
        "scores": [piece.score for piece in pieces],
        "token_type": [piece.type for piece in pieces],
        **roles.ids(by_text, len(pieces)),
        "add_bos_token": roles.adds("bos") is not False,
        "add_eos_token": roles.adds("eos") is True,
        "add_space_prefix": bool(normalizer.get(_DUMMY_PREFIX, 1)),
    }
    return {PREFIX + key: value for key, value in keys.items()}


def _check(pieces: list[_Piece], trainer: dict[int, Value], normalizer: dict[int, Value]) -> None:
    """Raise TokenizerError if it cuts text otherwise than shimmy does."""
    if not pieces:
        raise TokenizerError("holds no pieces, so it is no model of SentencePiece.")
    if (kind := trainer.get(_MODEL_TYPE, 1)) != _BPE:
        raise TokenizerError(f"its model_type is {kind!r}, expected {_BPE} (BPE).", hint=_ANOTHER)
    if normalizer.get(_CHARACTERS) or normalizer.get(_REMOVES_SPACES, 1) or trainer.get(_SPACE_AS_SUFFIX):
        raise TokenizerError("it changes characters or spaces before it cuts a text.", hint=_ANOTHER)


def _with_added(pieces: list[_Piece], folder: ModelFolder, rows: int | None) -> list[_Piece]:
    """With the tokens that were added to the pieces, and those that the model has rows for beyond them."""
    added = {int(token): (text, False) for text, token in folder.json_if_any(ADDED_TOKENS).items()}
    decoder = Roles.of(folder).settings.get("added_tokens_decoder") or {}
    added |= {int(token): (each["content"], bool(each.get("special"))) for token, each in decoder.items()}
    if rows is not None and len(pieces) > rows:
        raise TokenizerError(f"has {len(pieces)} tokens, the model only {rows}.")
    count = rows or max([len(pieces) - 1, *added]) + 1
    unused = (_Piece(f"[PAD{token}]", 0.0, int(TokenType.UNUSED)) for token in range(len(pieces), count))
    everything = [*pieces, *unused]
    for token, (text, special) in added.items():
        if 0 <= token < count and everything[token].type in (TokenType.NORMAL, TokenType.UNUSED):
            kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
            everything[token] = _Piece(text, everything[token].score, int(kind))
    return everything


def _piece(data: bytes) -> _Piece:
    values = dict(_fields(data))
    text, score, kind = values.get(_TEXT), values.get(_SCORE, bytes(4)), values.get(_TYPE, TokenType.NORMAL)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
        raise ValueError("a piece whose fields are of other kinds")
    return _Piece(text.decode(), struct.unpack("<f", score)[0], int(TokenType(kind)))


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message; numbers that are no integers as their bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if kind == _FOUR_BYTES else 8
        else:
            raise ValueError(f"a field of the kind {kind}")
        if place + size > len(data):
            raise ValueError(f"a field ends {place + size - len(data)} bytes behind the end")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for index, byte in enumerate(data[place : place + _MOST_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError(f"a number without an end at byte {place}")


def _signed(value: Value) -> int:
    """A number of 64 bits, the highest of which is its sign."""
    if not isinstance(value, int):
        raise ValueError("a token's number is none")
    return value - 2**64 if value >= 2**63 else value
