"""The request bodies: their fields, and those known from elsewhere that cannot be honoured."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from shimmy.errors import RequestError
from shimmy.server.body import FieldRules, neutral, one_of
from shimmy.server.messages import Message
from shimmy.server.mixed import Mixture
from shimmy.server.sampling import SamplingFields
from shimmy.server.unsupported import EVERYWHERE

Count: TypeAlias = Annotated[int, Meta(ge=1)]
TokenIds: TypeAlias = list[int]

#: Of one request: prompts times answers to each.
MAX_CHOICES = 128


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Padding against eavesdroppers; there is none on the way to this machine."""


class _CommonFields(SamplingFields, frozen=True, kw_only=True):
    """What both kinds of completion take; None is not given."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    """Another spelling of ``max_tokens``."""
    cache_salt: str | None = None
    """Only requests of the same salt share what is cached of equal prompts."""
    lora: Mixture | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None

    def check(self) -> None:
        """Raise RequestError where fields do not go together."""
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                "stream_options is given, but stream is not true.",
                hint="Leave it out, or ask for a stream.",
                param="stream_options",
            )

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer asked for; None leaves it open."""
        return one_of(max_tokens=self.max_tokens, max_completion_tokens=self.max_completion_tokens)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(_CommonFields, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise RequestError(
                f"top_logprobs is {self.top_logprobs}, but logprobs is not true.",
                hint="Set logprobs to true.",
                param="top_logprobs",
            )

    @property
    def alternatives(self) -> int | None:
        """Alternatives wanted with each token; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_CommonFields, frozen=True, kw_only=True):
    """The body of POST /v1/completions. ``prompt`` is text, token ids, or a list of either."""

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    def check(self) -> None:
        super().check()
        prompts, each = len(self.prompts), self.n or 1
        if prompts * each > MAX_CHOICES:
            raise RequestError(
                f"{prompts} prompts with {each} answers each are {prompts * each} choices; "
                f"a request may have {MAX_CHOICES}.",
                hint="Send several requests.",
                param="prompt" if prompts > MAX_CHOICES else "n",
            )

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


#: What other APIs of the same servers take; here it goes elsewhere.
_UNSUPPORTED = {
    **EVERYWHERE,
    "num_predict": neutral(),
    "num_ctx": neutral(),
    "options": neutral({}),
    "system": neutral(""),
    "raw": neutral(False),
}

#: For the provider's books, its caches, its speed.
_IDLE = frozenset(
    {
        "user",
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "cache_prompt",
        "prediction",
        # Without tools there are no calls.
        "parallel_tool_calls",
    }
)

CHAT_RULES = FieldRules(_UNSUPPORTED | {"prompt": neutral("", [])}, _IDLE)
TEXT_RULES = FieldRules(
    _UNSUPPORTED
    | {
        "messages": neutral([]),
        # Here logprobs is the number.
        "top_logprobs": neutral(0),
    },
    _IDLE,
)
