"""One request through the engine: tokens in, pieces of text out."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from shimmy.errors import ContextLengthError, RequestError, WorkerDiedError
from shimmy.events import RequestFinished, RequestStarted
from shimmy.server.errors import StoppingError
from shimmy.text.stream import TextStream

if TYPE_CHECKING:
    from shimmy.discovery.catalog import ModelCard
    from shimmy.engine.protocol import Ready, Sampling, TokenEvent
    from shimmy.hooks import Plugins
    from shimmy.server.models import ModelPool
    from shimmy.server.served import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What to generate, for whom. ``max_tokens`` comes from :func:`room_for_answer`."""

    frontend: str
    card: ModelCard
    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()
    salt: str = ""
    """Only requests of the same salt share the KV cache of equal prompts."""
    mixed: tuple[tuple[ModelCard, float], ...] | None = None
    """Further adapters of the model's base, each with a factor; None: the request does not say."""
    stream: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    accepted: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Piece:
    """What came since the piece before: new text and the tokens that were sampled.

    ``completion_tokens`` counts all tokens so far. ``finish`` is None except on the last piece,
    where it is stop or length. ``cached_tokens`` of the prompt were found in the KV cache.
    """

    text: str
    tokens: list[TokenEvent]
    completion_tokens: int
    finish: str | None = None
    cached_tokens: int = 0


def room_for_answer(
    facts: Ready, prompt_tokens: int, requested: int | None, default: int | None = None
) -> int:
    """How many tokens the answer may have.

    ``requested`` must fit behind the prompt. Without it ``default`` tokens, or as many as fit.

    Raises:
        RequestError: the prompt is empty.
        ContextLengthError: prompt and answer together do not fit the model's context.
    """
    if not prompt_tokens:
        raise RequestError("the prompt is empty: it has no tokens.", hint="Send some text.", param="prompt")
    room = facts.context - prompt_tokens
    if room < max(requested or 1, 1):
        wanted = f"{prompt_tokens} tokens in the prompt"
        if requested is not None:
            wanted += f" and {requested} requested for the answer"
        raise ContextLengthError(
            f"this model's context holds {facts.context} tokens, but there are {wanted}, "
            f"{prompt_tokens + (requested or 1)} in all.",
            hint="Shorten the prompt, ask for fewer tokens, or raise max_ctx.",
            param="max_tokens" if room > 0 else "prompt",
        )
    if requested is not None:
        return requested
    return min(room, default) if default is not None else room


async def generate(
    request: GenerationRequest, models: ModelPool, plugins: Plugins
) -> AsyncGenerator[Piece, None]:
    """Pieces as they come; several steps' worth in one when the reader is slow.

    Closing the generator early, or cancelling its reader, cancels the request in the engine.
    """
    last, outcome = Piece("", [], 0), "cancelled"
    first_token: float | None = None
    async with models.use(request.card, request.mixed or ()) as model:
        started = RequestStarted(
            request.id, request.frontend, request.card.name, len(request.tokens), request.stream
        )
        plugins.request_started(started)
        try:
            async with aclosing(_pieces(request, model)) as pieces:
                async for piece in pieces:
                    if first_token is None:
                        first_token = time.monotonic() - request.accepted
                    last, outcome = piece, piece.finish or outcome
                    yield piece
        except Exception as error:
            outcome = "error"
            if models.stopping and isinstance(error, WorkerDiedError):
                raise StoppingError from error
            raise
        finally:
            plugins.request_finished(
                RequestFinished(
                    request.id,
                    request.frontend,
                    request.card.name,
                    len(request.tokens),
                    last.completion_tokens,
                    outcome,
                    first_token,
                    time.monotonic() - request.accepted,
                    last.cached_tokens,
                )
            )


async def _pieces(request: GenerationRequest, model: ServedModel) -> AsyncGenerator[Piece, None]:
    text = TextStream(model.text.tokenizer, request.stops)
    count = 0
    steps = model.engine.generate(
        request.tokens,
        max_tokens=request.max_tokens,
        sampling=request.sampling,
        stop_ids=model.text.stop_ids,
        salt=request.salt,
        adapters=model.adapters,
    )
    async with aclosing(steps):
        async for events in steps:
            shown, sampled = _take(events, text)
            count += len(sampled)
            finish = "stop" if text.stopped else events[-1].finish
            if finish:
                break
            yield Piece(shown, sampled, count, cached_tokens=events[-1].reused)
    # Out of the block: an engine running past a stop string is cancelled before the reader has its say.
    yield Piece(shown + text.flush(), sampled, count, finish, events[-1].reused)


def _take(events: list[TokenEvent], text: TextStream) -> tuple[str, list[TokenEvent]]:
    """New text and the events that count: none of what the engine ran past a stop string."""
    shown = ""
    sampled: list[TokenEvent] = []
    for event in events:
        if event.token is not None:
            sampled.append(event)
            shown += text.push([event.token])
        if text.stopped:
            break
    return shown, sampled


async def merge(
    streams: Sequence[AsyncGenerator[Piece, None]],
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Several generations side by side: each piece with the index of its stream, as they come.

    Ends all of them when one fails or the reader closes this generator.
    """
    # Room for one piece: a slow reader slows all streams down.
    feed: _Feed = asyncio.Queue(maxsize=1)
    feeding = [asyncio.create_task(_fill(feed, index, stream)) for index, stream in enumerate(streams)]
    running = len(feeding)
    try:
        while running:
            came = await feed.get()
            if came is None:
                running -= 1
            elif isinstance(came, Exception):
                raise came
            else:
                yield came
    finally:
        for task in feeding:
            task.cancel()
        await asyncio.gather(*feeding, return_exceptions=True)


#: Pieces with the indexes of their streams; what made a stream fail; None at the end of one.
_Feed: TypeAlias = asyncio.Queue[tuple[int, Piece] | Exception | None]


async def _fill(feed: _Feed, index: int, stream: AsyncGenerator[Piece, None]) -> None:
    end = None
    try:
        async with aclosing(stream):
            async for piece in stream:
                await feed.put((index, piece))
    except Exception as error:
        end = error
    await feed.put(end)
