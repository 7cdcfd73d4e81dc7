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
    include_usage: bool

    def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        return merge([self.context.generate(choice) for choice in self.choices])


async def whole(job: Job) -> Response:
    """The response in one piece."""
    collected: list[list[Piece]] = [[] for _ in job.choices]
    async with aclosing(job.pieces()) as pieces:
        async for index, piece in pieces:
            collected[index].append(piece)
    body = job.answer.envelope(job.style.object)
    body["choices"] = [job.style.choice(i, pieces, job.answer) for i, pieces in enumerate(collected)]
    body["usage"] = usage(job.prompt_tokens, sum(pieces[-1].completion_tokens for pieces in collected))
    return json_response(body)


async def streamed(job: Job) -> AsyncGenerator[bytes, None]:
    """The response as events. An error becomes an event too, and then no ``[DONE]`` follows."""
    try:
        for index in range(len(job.choices)):
            if opening := job.style.opening(index):
                yield _chunk(job, [opening])
        completion_tokens = 0
        offsets = [0] * len(job.choices)
        async with aclosing(job.pieces()) as pieces:
            async for index, piece in pieces:
                if choices := _stream_choices(job, index, piece, offsets[index]):
                    yield b"".join(_chunk(job, [choice]) for choice in choices)
                offsets[index] += len(piece.text)
                if piece.finish:
                    completion_tokens += piece.completion_tokens
        if job.include_usage:
            yield _chunk(job, [], usage(job.prompt_tokens, completion_tokens))
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
    return sse.event(msgspec.json.encode(error_body(error)))


def _has_logprobs(piece: Piece) -> bool:
    return any(event.logprob is not None for event in piece.tokens)


def _chunk(job: Job, choices: list[dict[str, Any]], total: dict[str, int] | None = None) -> bytes:
    body = job.answer.envelope(job.style.chunk_object)
    body["choices"] = choices
    if job.include_usage:
        # With the option on, every chunk has the key; only the last has numbers.
        body["usage"] = total
    return sse.event(msgspec.json.encode(body))
