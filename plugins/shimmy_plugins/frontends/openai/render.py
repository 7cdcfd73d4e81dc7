"""Responses and stream chunks, in OpenAI's shapes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shimmy import __version__
from shimmy.engine.protocol import Ready, TokenEvent
from shimmy.server.generation import Piece
from shimmy.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Answer:
    """What all chunks and choices of one response share."""

    id: str
    model: str
    fingerprint: str
    tokenizer: Tokenizer
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class Style(Protocol):
    """One of the two shapes: of chat or of text completions."""

    object: str
    chunk_object: str
    id_prefix: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of a stream's first chunk, None if there is no such chunk."""
        ...

    def delta(self, index: int, piece: Piece, answer: Answer, offset: int) -> dict[str, Any]:
        """The choice of a chunk; ``offset`` characters of the answer came before it."""
        ...

    def closing(self, index: int, finish: str) -> dict[str, Any] | None:
        """The choice of a chunk of its own for the finish reason, None if the last delta has it."""
        ...

    def choice(self, index: int, pieces: Sequence[Piece], answer: Answer) -> dict[str, Any]:
        """A whole choice of a response that is not streamed."""
        ...


class ChatStyle:
    """``chat.completion``: deltas, the role first, the finish reason in an empty one."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, index: int, piece: Piece, answer: Answer, offset: int) -> dict[str, Any]:  # noqa: ARG002
        return {
            "index": index,
            "delta": {"content": piece.text},
            "logprobs": self._logprobs(piece.tokens, answer.tokenizer),
            "finish_reason": None,
        }

    def closing(self, index: int, finish: str) -> dict[str, Any] | None:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish}

    def choice(self, index: int, pieces: Sequence[Piece], answer: Answer) -> dict[str, Any]:
        tokens = [token for piece in pieces for token in piece.tokens]
        text = "".join(piece.text for piece in pieces)
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(tokens, answer.tokenizer),
            "finish_reason": pieces[-1].finish,
        }

    def _logprobs(self, events: Sequence[TokenEvent], tokenizer: Tokenizer) -> dict[str, Any] | None:
        content = [
            {
                **_token(tokenizer, event.token, event.logprob),
                "top_logprobs": [_token(tokenizer, token, logprob) for token, logprob in event.top],
            }
            for event in events
            if event.token is not None and event.logprob is not None
        ]
        return {"content": content, "refusal": None} if content else None


class TextStyle:
    """``text_completion``: the same object streamed or not."""

    object = chunk_object = "text_completion"
    id_prefix = "cmpl"

    def opening(self, index: int) -> dict[str, Any] | None:  # noqa: ARG002
        return None

    def delta(self, index: int, piece: Piece, answer: Answer, offset: int) -> dict[str, Any]:
        return {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs(piece.tokens, answer.tokenizer, offset),
            "finish_reason": piece.finish,
        }

    def closing(self, index: int, finish: str) -> dict[str, Any] | None:  # noqa: ARG002
        return None

    def choice(self, index: int, pieces: Sequence[Piece], answer: Answer) -> dict[str, Any]:
        tokens = [token for piece in pieces for token in piece.tokens]
        whole = Piece("".join(p.text for p in pieces), tokens, len(tokens), pieces[-1].finish)
        return self.delta(index, whole, answer, 0)

    def _logprobs(
        self, events: Sequence[TokenEvent], tokenizer: Tokenizer, offset: int
    ) -> dict[str, Any] | None:
        known = [(e.token, e.logprob, e.top) for e in events if e.token is not None and e.logprob is not None]
        if not known:
            return None
        texts = [_text(tokenizer, token) for token, _, _ in known]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": [_spelled(tokenizer, token) for token, _, _ in known],
            "token_logprobs": [logprob for _, logprob, _ in known],
            "top_logprobs": [{_spelled(tokenizer, t): logprob for t, logprob in top} for _, _, top in known],
            "text_offset": offsets,
        }


CHAT = ChatStyle()
TEXT = TextStyle()


def new_answer(style: Style, model: str, facts: Ready, tokenizer: Tokenizer) -> Answer:
    """The head of a response. The fingerprint names what decides the numbers behind an answer."""
    fingerprint = f"shimmy-{__version__}-{facts.backend}-{facts.precision}-kv-{facts.kv_type}"
    return Answer(f"{style.id_prefix}-{uuid.uuid4().hex}", model, fingerprint, tokenizer)


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": _text(tokenizer, token), "logprob": logprob, "bytes": list(data)}


def _text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; control tokens by their name, as they add none."""
    data = tokenizer.token_bytes(token)
    return data.decode("utf-8", "replace") if data else tokenizer.token_text(token)


def _spelled(tokenizer: Tokenizer, token: int) -> str:
    """A token as a text of its own; parts of characters as OpenAI spells them: ``bytes:\\xe4\\xb8``."""
    try:
        return tokenizer.token_bytes(token).decode() or tokenizer.token_text(token)
    except UnicodeDecodeError:
        return "bytes:" + tokenizer.token_bytes(token).decode("ascii", "backslashreplace")
