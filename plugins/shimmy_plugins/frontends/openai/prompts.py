"""From a checked request to what the engine is asked for."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from shimmy.engine.protocol import Sampling
from shimmy.errors import RequestError
from shimmy.server.models import ServedModel
from shimmy_plugins.frontends.openai.schema import ChatRequest, CompletionRequest, ContentPart, Message

#: ``developer`` is the newer name of the role templates know as ``system``.
_ROLES = {"developer": "system"}
_SEED_BITS = 31


@dataclass(frozen=True, slots=True)
class Prompts:
    """The tokens of each prompt, and the texts that end an answer to any of them."""

    tokens: list[list[int]]
    stops: tuple[str, ...]


async def chat_prompts(request: ChatRequest, model: ServedModel) -> Prompts:
    """A chat, as the only prompt."""
    messages = [template_message(message, index) for index, message in enumerate(request.messages)]
    return Prompts([await model.text.encode_chat(messages)], (*request.stops, *model.text.chat_stops))


async def completion_prompts(request: CompletionRequest, model: ServedModel) -> Prompts:
    """Each prompt as it was written."""
    prompts: list[list[int]] = []
    for prompt in request.prompts:
        if isinstance(prompt, str):
            prompts.append(await model.text.encode(prompt))
        else:
            _check_ids(prompt, model.facts.vocabulary, "prompt")
            prompts.append(prompt)
    return Prompts(prompts, request.stops)


def template_message(message: Message, index: int) -> dict[str, Any]:
    """A message as chat templates take it: its content one text."""
    if message.tool_calls:
        raise RequestError(
            f"messages[{index}].tool_calls is not supported.",
            hint="Write what was called into the content.",
            param=f"messages[{index}].tool_calls",
        )
    fields: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role),
        "content": _text(message.content, f"messages[{index}].content"),
    }
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def sampling(request: ChatRequest | CompletionRequest, vocabulary: int) -> Sampling:
    """How to choose tokens; a random seed if none is given, so that an answer can be repeated."""
    repeat = request.repeat_penalty if request.repeat_penalty is not None else request.repetition_penalty
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=max(request.top_k or 0, 0),  # -1 is another spelling of "off"
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        repeat_penalty=1.0 if repeat is None else repeat,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=_logit_bias(request.logit_bias or {}, vocabulary),
        seed=secrets.randbits(_SEED_BITS) if request.seed is None else request.seed,
        logprobs=request.alternatives,
    )


def _text(content: str | list[ContentPart] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            found = part.type if part.type != "text" else "text without a text"
            raise RequestError(
                f"{where}[{index}] is of type {found!r}; expected type 'text' with a text.",
                hint="Only text can be given to this model.",
                param=f"{where}[{index}]",
            )
    return "\n".join(part.text or "" for part in content)


def _logit_bias(biases: dict[str, float], vocabulary: int) -> dict[int, float]:
    wrong = [token for token in biases if not (token.isascii() and token.isdigit())]
    if wrong:
        raise RequestError(f"logit_bias has the key {wrong[0]!r}; expected token ids.", param="logit_bias")
    by_id = {int(token): bias for token, bias in biases.items()}
    _check_ids(list(by_id), vocabulary, "logit_bias")
    return by_id


def _check_ids(ids: list[int], vocabulary: int, param: str) -> None:
    wrong = [token for token in ids if not 0 <= token < vocabulary]
    if wrong:
        raise RequestError(
            f"{param} has the token id {wrong[0]}; this model's ids are 0 to {vocabulary - 1}.", param=param
        )
