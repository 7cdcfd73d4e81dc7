"""Runs the choices of a request and answers whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from quart import Response

from shimmy.errors import ShimmyError
from shimmy.server import sse
from shimmy.server.context import ServerContext
from shimmy.server.discretion import told
from shimmy.server.errors import internal_error
from shimmy.server.generation import GenerationRequest, Piece, merge
from shimmy.server.reply import json_response, usage
from shimmy_plugins.frontends.openai.errors import error_body
from shimmy_plugins.frontends.openai.render import Answer, Style

_DONE = sse.event(b"[DONE]")


@dataclass(frozen=True, slots=True)
class Job:
    """A request ready to run: one generation per choice, prompts in order, ``n`` choices each."""

    context: ServerContext
    style: Style
    answer: Answer
    choices: Sequence[GenerationRequest]
    prompt_tokens: int
    choices_each: int
    include_usage: bool

    def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        return merge([self.context.generate(choice) for choice in self.choices])

    def usage(self, last: Sequence[Piece]) -> dict[str, Any]:
        """The token counts, by the last piece of each choice, in order.

        A prompt counts once for its choices, and as cached what none of them had to compute.
        """
        n = self.choices_each
        cached = [min(piece.cached_tokens for piece in last[i : i + n]) for i in range(0, len(last), n)]
        return usage(self.prompt_tokens, sum(piece.completion_tokens for piece in last), sum(cached))


async def whole(job: Job) -> Response:
    """The response in one piece."""
    collected: list[list[Piece]] = [[] for _ in job.choices]
    async with aclosing(job.pieces()) as pieces:
        async for index, piece in pieces:
            collected[index].append(piece)
    body = job.answer.envelope(job.style.object)
    body["choices"] = [job.style.choice(i, pieces, job.answer) for i, pieces in enumerate(collected)]
    body["usage"] = job.usage([pieces[-1] for pieces in collected])
    return json_response(body)


async def streamed(job: Job) -> AsyncGenerator[bytes, None]:
    """The response as events. An error becomes an event too, and then no ``[DONE]`` follows."""
    try:
        for index in range(len(job.choices)):
            if opening := job.style.opening(index):
                yield _chunk(job, [opening])
        offsets = [0] * len(job.choices)
        last: dict[int, Piece] = {}
        async with aclosing(job.pieces()) as pieces:
            async for index, piece in pieces:
                if choices := _stream_choices(job, index, piece, offsets[index]):
                    yield b"".join(_chunk(job, [choice]) for choice in choices)
                offsets[index] += len(piece.text)
                if piece.finish:
                    last[index] = piece
        if job.include_usage:
            yield _chunk(job, [], job.usage([last[index] for index in sorted(last)]))
        yield _DONE
    except ShimmyError as error:
        yield _error(error)
    except Exception as error:
        yield _error(internal_error(error, "a streamed completion"))


def _stream_choices(job: Job, index: int, piece: Piece, offset: int) -> list[dict[str, Any]]:
    """The choices that tell of a piece; none while its text is held back."""
    choices = []
    closing = job.style.closing(index, piece.finish) if piece.finish else None
    if piece.text or _has_logprobs(piece) or (piece.finish and not closing):
        choices.append(job.style.delta(index, piece, job.answer, offset))
    if closing:
        choices.append(closing)
    return choices


def _error(error: ShimmyError) -> bytes:
    return sse.event(msgspec.json.encode(error_body(told(error))))


def _has_logprobs(piece: Piece) -> bool:
    return any(event.logprob is not None for event in piece.tokens)


def _chunk(job: Job, choices: list[dict[str, Any]], total: dict[str, Any] | None = None) -> bytes:
    body = job.answer.envelope(job.style.chunk_object)
    body["choices"] = choices
    if job.include_usage:
        # With the option on, every chunk has the key; only the last has numbers.
        body["usage"] = total
    return sse.event(msgspec.json.encode(body))
