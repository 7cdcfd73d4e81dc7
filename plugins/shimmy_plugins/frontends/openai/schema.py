"""The request bodies: their fields, types and ranges, and the fields that cannot be honoured.

Three kinds of fields: those declared here; those of :data:`UNSUPPORTED`, refused with a 400 that
names them unless their value changes nothing; and all others, which are accepted and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from shimmy.errors import RequestError

Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]
#: An empty stop string would end every answer before it begins.
StopString: TypeAlias = Annotated[str, Meta(min_length=1)]
TokenIds: TypeAlias = list[int]

MAX_STOPS = 16
MAX_CHOICES = 128


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class ContentPart(Struct, frozen=True):
    type: str
    text: str | None = None


Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class Message(Struct, frozen=True):
    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Any] | None = None


class _CommonFields(Struct, frozen=True, kw_only=True):
    """What both kinds of completion take; None is not given."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(_CommonFields, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer asked for; None leaves it to the context."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """Alternatives wanted with each token; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_CommonFields, frozen=True, kw_only=True):
    """The body of POST /v1/completions. ``prompt`` is text, token ids, or a list of either."""

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def answer_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | TokenIds]:
        """Each prompt by itself."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [item for item in self.prompt if isinstance(item, int)]
        if len(ids) == len(self.prompt):
            return [ids]
        if ids:
            raise RequestError(
                "prompt mixes token ids with texts or lists; expected all of one kind.", param="prompt"
            )
        return [item for item in self.prompt if not isinstance(item, int)]


def _is(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value in neutral


#: Known fields that would change the answer, each with the values that would not.
UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    "tools": _is([]),
    "tool_choice": _is("none", "auto"),
    "functions": _is([]),
    "function_call": _is("none", "auto"),
    "response_format": _is({"type": "text"}),
    "modalities": _is([], ["text"]),
    "audio": _is(),
    "web_search_options": _is(),
    "reasoning_effort": _is("none"),
    "suffix": _is(""),
    "echo": _is(False),
    "best_of": _is(1),
    "logits_processors": _is([]),
    "guided_json": _is(),
    "guided_regex": _is(),
    "guided_choice": _is(),
    "guided_grammar": _is(),
    "json_schema": _is({}),
    "grammar": _is(""),
}

R = TypeVar("R", ChatRequest, CompletionRequest)


def parse_request(body: bytes, kind: type[R]) -> R:
    """A request from its body, whatever the content type said.

    Raises:
        RequestError: not JSON, a field of wrong type or out of range, or one that is unsupported.
    """
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the request body is not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise RequestError("the request body is not a JSON object.", hint='Expected {"model": …}.')
    for name, is_neutral in UNSUPPORTED.items():
        value = fields.get(name)
        if value is not None and not is_neutral(value):
            raise RequestError(
                f"{name} is not supported, and leaving it out would change the answer.",
                hint="Send the request without it.",
                param=name,
            )
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error), fields) from None


def _invalid_field(problem: str, fields: dict[str, Any]) -> RequestError:
    """msgspec's "Expected `int`, got `str` - at `$.max_tokens`" in our words."""
    what, _, place = problem.partition(" - at `$")
    if missing := re.search(r"missing required field `(\w+)`", what):
        path = f"{place.rstrip('`')}.{missing[1]}".lstrip(".")
        return RequestError(f"{path} is missing; it is required.", param=path)
    # "[...]" stands for some value of an object.
    path = place.rstrip("`").lstrip(".").removesuffix("[...]")
    if "enum value" in what:
        what += f", expected {' or '.join(get_args(Role))}"
    found = _scalar_at(fields, path)
    what = what[:1].lower() + what[1:].replace("`", "")
    got = f" is {found}" if found is not None and ", got" not in what else ""
    return RequestError(f"{path}{got}: {what}.", param=path)


def _scalar_at(fields: Any, path: str) -> str | None:
    """The number at ``path``, as found. Texts are left out: errors may be logged by clients."""
    for key in re.findall(r"[^.\[\]]+", path):
        try:
            fields = fields[int(key)] if isinstance(fields, list) else fields[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return str(fields) if isinstance(fields, int | float) and not isinstance(fields, bool) else None
