"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec.structs import replace
from quart import Blueprint, Response, request

from shimmy.errors import ShimmyError
from shimmy.server import sse
from shimmy.server.body import Body, FieldRules, read_object, read_request
from shimmy.server.context import ServerContext
from shimmy.server.generation import GenerationRequest, room_for_answer
from shimmy.server.reply import annotate, json_response
from shimmy.server.sampling import choice_seed, choose_sampling
from shimmy.server.served import ServedModel
from shimmy_plugins.frontends.openai.errors import error_body
from shimmy_plugins.frontends.openai.example import example
from shimmy_plugins.frontends.openai.listing import loaded_facts, model_list, model_object
from shimmy_plugins.frontends.openai.prompts import Prompts, chat_prompts, completion_prompts
from shimmy_plugins.frontends.openai.render import CHAT, TEXT, Style, new_answer
from shimmy_plugins.frontends.openai.respond import Job, streamed, whole
from shimmy_plugins.frontends.openai.schema import CHAT_RULES, TEXT_RULES, ChatRequest, CompletionRequest

#: OpenAI's default length of a text completion; a chat may fill the context.
COMPLETION_TOKENS = 16

R = TypeVar("R", ChatRequest, CompletionRequest)


class OpenAIFrontend:
    """OpenAI's API for one server."""

    def blueprint(self, context: ServerContext) -> Blueprint:
        routes = Blueprint("openai", __name__)

        @routes.post("/v1/chat/completions")
        async def chat_completions() -> Response:
            body = await _body(context, ChatRequest, CHAT_RULES)
            return await _complete(context, body, CHAT, chat_prompts, default_tokens=None)

        @routes.post("/v1/completions")
        async def completions() -> Response:
            body = await _body(context, CompletionRequest, TEXT_RULES)
            return await _complete(context, body, TEXT, completion_prompts, COMPLETION_TOKENS)

        @routes.get("/v1/models")
        async def models() -> Response:
            cards, own = await context.list_models(), await context.own_names()
            aliases = await context.aliases(cards)
            return json_response(await asyncio.to_thread(model_list, cards, own, aliases))

        @routes.get("/v1/models/<path:name>")
        async def model(name: str) -> Response:
            card = await context.find_model(name)
            aliases = await context.aliases([card])
            known = await asyncio.to_thread(model_object, card, aliases[card.name])
            return json_response(known | loaded_facts(context.models.loaded(card.name)))

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return error_body(error)

    def example(self, url: str, model: ServedModel) -> str | None:
        return example(url, model)


async def _body(context: ServerContext, kind: type[R], rules: FieldRules) -> Body[R]:
    # Any content type: `curl -d` without a header says "form".
    data = await request.get_data()
    assert isinstance(data, bytes)
    body = read_request(read_object(data), kind, rules, strict=context.settings.strict)
    body.request.check()
    return body


async def _complete(
    context: ServerContext,
    body: Body[R],
    style: Style,
    prompts_of: Callable[[R, ServedModel], Awaitable[Prompts]],
    default_tokens: int | None,
) -> Response:
    wanted = body.request
    card = await context.find_model(wanted.model)
    mixed = await context.find_adapters(card, wanted.lora)
    model = await context.models.load(card)
    prompts = await prompts_of(wanted, model)
    chosen = choose_sampling(
        [wanted], model.text.sampling, model.facts.vocabulary, logprobs=wanted.alternatives
    )
    each = wanted.n or 1
    choices = [
        GenerationRequest(
            frontend="openai",
            card=card,
            tokens=tokens,
            max_tokens=room_for_answer(model.facts, len(tokens), wanted.answer_tokens, default_tokens),
            # Other choices of the same prompt need other random numbers.
            sampling=replace(chosen, seed=choice_seed(chosen.seed, number)),
            stops=prompts.stops,
            salt=wanted.cache_salt or "",
            mixed=mixed,
            stream=bool(wanted.stream),
        )
        for tokens in prompts.tokens
        for number in range(each)
    ]
    answer = new_answer(style, card.name, model.facts, model.text.tokenizer)
    prompt_tokens = sum(len(tokens) for tokens in prompts.tokens)
    job = Job(context, style, answer, choices, prompt_tokens, each, wanted.include_usage)
    response = sse.event_stream(streamed(job)) if wanted.stream else await whole(job)
    return annotate(response, seed=chosen.seed, ignored=body.ignored)
