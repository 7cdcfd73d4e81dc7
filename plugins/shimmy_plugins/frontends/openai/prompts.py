"""From a checked request to the tokens of its prompts."""

from __future__ import annotations

from dataclasses import dataclass

from shimmy.server.messages import template_messages
from shimmy.server.sampling import check_token_ids
from shimmy.server.served import ServedModel
from shimmy_plugins.frontends.openai.schema import ChatRequest, CompletionRequest


@dataclass(frozen=True, slots=True)
class Prompts:
    """The tokens of each prompt, and the texts that end an answer to any of them."""

    tokens: list[list[int]]
    stops: tuple[str, ...]


async def chat_prompts(request: ChatRequest, model: ServedModel) -> Prompts:
    """A chat, as the only prompt."""
    tokens = await model.text.encode_chat(template_messages(request.messages), model.facts.context)
    return Prompts([tokens], (*request.stops, *model.text.chat_stops))


async def completion_prompts(request: CompletionRequest, model: ServedModel) -> Prompts:
    """Each prompt as it was written."""
    prompts: list[list[int]] = []
    for prompt in request.prompts:
        if isinstance(prompt, str):
            prompts.append(await model.text.encode(prompt, model.facts.context))
        else:
            check_token_ids(prompt, model.facts.vocabulary, "prompt")
            prompts.append(prompt)
    return Prompts(prompts, request.stops)
