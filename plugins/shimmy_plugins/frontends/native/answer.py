"""From a request to its frames: ``{"token": …}`` each, the last with ``done`` and what it took."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from shimmy.engine.protocol import Ready
from shimmy.errors import ContextLengthError, ShimmyError
from shimmy.server.body import read_request
from shimmy.server.context import ServerContext
from shimmy.server.discretion import told
from shimmy.server.errors import internal_error
from shimmy.server.generation import GenerationRequest, Piece, room_for_answer
from shimmy.server.messages import template_messages
from shimmy.server.reply import usage
from shimmy.server.sampling import choose_sampling
from shimmy_plugins.frontends.native.schema import AS_MANY_AS_FIT, RULES, GenerateRequest

Frame: TypeAlias = dict[str, Any]

#: How long an answer to a raw prompt gets if nobody says: it rarely ends by itself.
RAW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Job:
    """A request ready to run. Times are of the monotonic clock, in nanoseconds."""

    context: ServerContext
    request: GenerationRequest
    stream: bool | None
    """None if the request does not say."""
    ignored: tuple[str, ...]
    accepted: int
    loaded: int


async def prepare(context: ServerContext, fields: Mapping[str, Any], frontend: str) -> Job:
    """The job of a request.

    Raises:
        ShimmyError: the request is not as it should be, or its model cannot be loaded.
    """
    accepted = time.monotonic_ns()
    body = read_request(fields, GenerateRequest, RULES, strict=context.settings.strict)
    wanted = body.request
    chat = wanted.chat
    model = await context.models.load(await context.find_model(wanted.model))
    loaded = time.monotonic_ns()
    if chat is None:
        tokens = await model.text.encode(wanted.prompt or "", model.facts.context)
        stops, default = wanted.all_stops, RAW_TOKENS
    else:
        tokens = await model.text.encode_chat(template_messages(chat), model.facts.context)
        stops, default = (*wanted.all_stops, *model.text.chat_stops), None
    request = GenerationRequest(
        frontend=frontend,
        card=model.card,
        tokens=tokens,
        max_tokens=_answer_tokens(wanted, model.facts, len(tokens), default),
        sampling=choose_sampling(wanted.layers, model.text.sampling, model.facts.vocabulary),
        stops=stops,
        mixed=await context.find_adapters(model.card, wanted.lora),
        stream=bool(wanted.stream),
    )
    return Job(context, request, wanted.stream, body.ignored, accepted, loaded)


async def frames(job: Job) -> AsyncGenerator[Frame, None]:
    """The frames of an answer, as its tokens come."""
    first, last = None, Piece("", [], 0)
    async with aclosing(job.context.generate(job.request)) as pieces:
        async for last in pieces:
            first = first or time.monotonic_ns()
            if last.text:
                yield {"token": last.text}
    yield _summary(job, last, first or time.monotonic_ns())


async def whole(job: Job) -> Frame:
    """The answer in one piece: the last frame, with all text."""
    texts: list[str] = []
    last: Frame = {}
    async with aclosing(frames(job)) as parts:
        async for last in parts:
            texts.append(last.get("token", ""))
    return {"model": last["model"], "response": "".join(texts), **last}


async def or_error(source: AsyncGenerator[Frame, None]) -> AsyncGenerator[Frame, None]:
    """The same frames; what goes wrong becomes the last one."""
    try:
        async with aclosing(source) as parts:
            async for frame in parts:
                yield frame
    except ShimmyError as error:
        yield error_frame(told(error))
    except Exception as error:
        yield error_frame(internal_error(error, "a streamed answer"))


def error_frame(error: ShimmyError) -> Frame:
    """An error. Its message is a plain text, for clients that show ``error`` as it is."""
    return {"error": str(error), "code": error.code, "param": error.param}


def _answer_tokens(wanted: GenerateRequest, facts: Ready, prompt: int, default: int | None) -> int:
    """How many tokens the answer may have; without a ``default`` as many as fit."""
    context, count = wanted.wanted_context, wanted.answer_tokens
    if context is not None and context > facts.context:
        raise ContextLengthError(
            f"num_ctx is {context}, but this model's context holds {facts.context} tokens.",
            hint="Ask for less, or raise max_ctx.",
            param="num_ctx",
        )
    if count == AS_MANY_AS_FIT:
        return room_for_answer(facts, prompt, None)
    return room_for_answer(facts, prompt, count, default)


def _summary(job: Job, last: Piece, first: int) -> Frame:
    """The last frame. Names and nanoseconds beside ``usage`` are those of Ollama."""
    now, prompt_tokens = time.monotonic_ns(), len(job.request.tokens)
    summary: Frame = {
        "model": job.request.card.name,
        "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "done": True,
        "done_reason": last.finish,
        "usage": usage(prompt_tokens, last.completion_tokens, last.cached_tokens),
        "seed": job.request.sampling.seed,
        "prompt_eval_count": prompt_tokens,
        "eval_count": last.completion_tokens,
        "total_duration": now - job.accepted,
        "load_duration": job.loaded - job.accepted,
        "prompt_eval_duration": first - job.loaded,
        "eval_duration": now - first,
    }
    if job.ignored:
        summary["ignored_fields"] = job.ignored
    return summary
