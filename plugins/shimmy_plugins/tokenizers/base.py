"""What all built-in tokenizers share: ids to bytes by the vocabulary, BOS, control texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from shimmy.errors import TokenizerError
from shimmy.text.vocabulary import CONTROL_TYPES, TokenType, Vocabulary


class VocabularyTokenizer(ABC):
    """A :class:`shimmy.text.tokenizer.Tokenizer` over a vocabulary; subclasses say how text is cut.

    Args:
        to_bytes: the bytes that a normal token's text stands for.
        space_prefix: encoding puts a space before a text, so ``decode`` takes it away.
    """

    def __init__(
        self, vocabulary: Vocabulary, to_bytes: Callable[[str], bytes], *, space_prefix: bool = False
    ) -> None:
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.add_bos = vocabulary.add_bos
        self.stop_ids = vocabulary.stop_ids
        self.control_texts = frozenset(vocabulary.ids(*CONTROL_TYPES))
        self._tokens = vocabulary.tokens
        self._types = vocabulary.types
        self._to_bytes = to_bytes
        self._space_prefix = space_prefix

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """Ids of ``text``, in which nothing counts as a control token."""

    @abstractmethod
    def _encode_special(self, text: str) -> list[int]:
        """Ids of ``text``, in which control tokens count where no ``MARK`` is inside."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of ``text``; a lone surrogate, which no UTF-8 text can hold, counts as U+FFFD.

        ``add_eos_token`` of the file is not followed: a prompt that is to be continued has no end.
        """
        ids = self._encode_special(text) if parse_special else self._encode_plain(text)
        if add_special and self.add_bos and self.bos_id is not None:
            return [self.bos_id, *ids]
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ``ids``, without the space that ``encode`` put before a text of its own."""
        parts = [self.token_bytes(token) for token in ids]
        if self._space_prefix:
            _drop_first_space(parts)
        if not skip_special:
            parts = [part or self._control_text(token) for token, part in zip(ids, parts, strict=True)]
        return b"".join(parts).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes this token adds to a text that has begun; b"" for control and unused tokens."""
        kind, text = self._type(token), self._tokens[token]
        if kind == TokenType.NORMAL:
            return self._to_bytes(text)
        if kind == TokenType.USER_DEFINED:
            return text.encode()
        if kind == TokenType.BYTE:
            return _byte(text)
        return b""

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of the token."""
        self._type(token)
        return self._tokens[token]

    def _control_text(self, token: int) -> bytes:
        return self._tokens[token].encode() if self._types[token] in CONTROL_TYPES else b""

    def _type(self, token: int) -> int:
        if not 0 <= token < self.vocab_size:
            raise TokenizerError(
                f"token {token} is not in the vocabulary, which has {self.vocab_size} tokens."
            )
        return self._types[token]


def without_surrogates(text: str) -> str:
    """JSON may carry half a surrogate pair where a client cut a text in two."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _drop_first_space(parts: list[bytes]) -> None:
    first = next((place for place, part in enumerate(parts) if part), None)
    if first is not None:
        parts[first] = parts[first].removeprefix(b" ")


def _byte(text: str) -> bytes:
    """The byte of a token spelled ``<0x0A>``."""
    try:
        return bytes.fromhex(text.removeprefix("<0x").removesuffix(">"))
    except ValueError:
        raise TokenizerError(f"the byte token {text!r} is not spelled like '<0x0A>'.") from None
