"""The routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from quart import Blueprint, Response, request

from shimmy.discovery.catalog import ModelCard
from shimmy.errors import ShimmyError
from shimmy.server import sse
from shimmy.server.context import ServerContext
from shimmy.server.generation import GenerationRequest, room_for_answer
from shimmy.server.models import ServedModel
from shimmy_plugins.frontends.openai.errors import error_body
from shimmy_plugins.frontends.openai.example import example
from shimmy_plugins.frontends.openai.prompts import Prompts, chat_prompts, completion_prompts, sampling
from shimmy_plugins.frontends.openai.render import CHAT, TEXT, Style, new_answer
from shimmy_plugins.frontends.openai.respond import Job, streamed, whole
from shimmy_plugins.frontends.openai.schema import ChatRequest, CompletionRequest, R, parse_request

#: OpenAI's default length of a text completion; a chat may fill the context.
COMPLETION_TOKENS = 16


class OpenAIFrontend:
    """OpenAI's API for one server."""

    always_on = False

    def blueprint(self, context: ServerContext) -> Blueprint:
        routes = Blueprint("openai", __name__)

        @routes.post("/v1/chat/completions")
        async def chat_completions() -> Response:
            body = await _body(ChatRequest)
            return await _complete(context, body, CHAT, chat_prompts, default_tokens=None)

        @routes.post("/v1/completions")
        async def completions() -> Response:
            body = await _body(CompletionRequest)
            return await _complete(context, body, TEXT, completion_prompts, COMPLETION_TOKENS)

        @routes.get("/v1/models")
        async def models() -> Response:
            cards = await context.list_models()
            return _json({"object": "list", "data": [_model_object(card) for card in cards]})

        @routes.get("/v1/models/<path:name>")
        async def model(name: str) -> Response:
            return _json(_model_object(await context.find_model(name)))

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return error_body(error)

    def example(self, url: str, model: ServedModel) -> str | None:
        return example(url, model)


async def _body(kind: type[R]) -> R:
    # Any content type: `curl -d` without a header says "form".
    data = await request.get_data()
    assert isinstance(data, bytes)
    return parse_request(data, kind)


async def _complete(
    context: ServerContext,
    body: R,
    style: Style,
    prompts_of: Callable[[R, ServedModel], Awaitable[Prompts]],
    default_tokens: int | None,
) -> Response:
    card = await context.find_model(body.model)
    model = await context.models.load(card)
    prompts = await prompts_of(body, model)
    chosen = sampling(body, model.facts.vocabulary)
    choices = [
        GenerationRequest(
            frontend="openai",
            card=card,
            tokens=tokens,
            max_tokens=room_for_answer(model.facts, len(tokens), body.answer_tokens, default_tokens),
            # Other choices of the same prompt need other random numbers.
            sampling=msgspec.structs.replace(chosen, seed=chosen.seed + number),
            stops=prompts.stops,
            stream=bool(body.stream),
        )
        for tokens in prompts.tokens
        for number in range(body.n or 1)
    ]
    answer = new_answer(style, card.name, model.facts, model.text.tokenizer)
    prompt_tokens = sum(len(tokens) for tokens in prompts.tokens)
    job = Job(context, style, answer, choices, prompt_tokens, body.include_usage)
    response = sse.event_stream(streamed(job)) if body.stream else await whole(job)
    # Enough to repeat an answer that was sampled with a seed of ours.
    response.headers["X-Shimmy-Seed"] = str(chosen.seed)
    return response


def _model_object(card: ModelCard) -> dict[str, Any]:
    """A model as OpenAI lists it, and a few facts OpenAI's clients ignore."""
    return {
        "id": card.name,
        "object": "model",
        "created": 0,
        "owned_by": card.source,
        "architecture": card.architecture,
        "quantization": card.quantization,
        "parameters": card.parameters,
        "size_bytes": card.size_bytes,
        "context_length": card.context_length,
    }


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), content_type="application/json")
