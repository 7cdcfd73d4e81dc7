"""Chat messages: from requests to what chat templates take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from shimmy.errors import RequestError

#: What a request may call a role, and what templates call it.
ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class ContentPart(Struct, frozen=True):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Message(Struct, frozen=True):
    """A message of a chat. The fields behind ``tool_call_id`` cannot be honoured: they must be empty."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Any = None
    function_call: Any = None
    images: Any = None
    audio: Any = None
    refusal: Any = None


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as chat templates take them: each content one text.

    Raises:
        RequestError: an unknown role, content other than text, or none from others than the assistant.
    """
    return [_template_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _template_message(message: Message, where: str) -> dict[str, Any]:
    if message.role not in ROLES:
        raise RequestError(
            f"{where}.role is {message.role!r}; expected {', '.join(ROLES)}.", param=f"{where}.role"
        )
    for name in ("tool_calls", "function_call", "images", "audio", "refusal"):
        if getattr(message, name):
            raise RequestError(
                f"{where}.{name} is not supported.",
                hint="Write what it says into the content.",
                param=f"{where}.{name}",
            )
    if message.content is None and ROLES[message.role] != "assistant":
        raise RequestError(
            f"{where}.content is missing; a message of the role {message.role!r} needs one.",
            hint="It may be an empty text.",
            param=f"{where}.content",
        )
    optional = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {
        "role": ROLES[message.role],
        "content": _text(message.content, f"{where}.content"),
        **{name: value for name, value in optional.items() if value is not None},
    }


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
