"""The request: its fields, and those known from elsewhere that cannot be honoured."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from shimmy.errors import RequestError
from shimmy.server.body import FieldRules, neutral, one_of
from shimmy.server.messages import Message
from shimmy.server.mixed import Mixture
from shimmy.server.sampling import SamplingFields
from shimmy.server.unsupported import ANSWERS, EVERYWHERE, SAMPLERS

Count: TypeAlias = Annotated[int, Meta(ge=1)]

#: A length of the answer.
AS_MANY_AS_FIT = -1


class Options(SamplingFields, frozen=True, kw_only=True):
    """How to generate. Stands in the request itself or, as Ollama's clients send it, in ``options``."""

    max_tokens: Count | None = None
    num_predict: Annotated[int, Meta(ge=-2)] | None = None
    """Another spelling of ``max_tokens``; below zero: as many as fit."""
    num_ctx: Count | None = None
    """The context that the request needs; there may be more."""


class GenerateRequest(Options, frozen=True, kw_only=True):
    """A prompt or messages, and how to answer. Fields given here win over those in ``options``."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    system: str | None = None
    raw: bool | None = None
    lora: Mixture | None = None
    stream: bool | None = None
    options: Options | None = None

    @property
    def layers(self) -> tuple[Options, ...]:
        """Where options may stand, the strongest first."""
        return (self,) if self.options is None else (self, self.options)

    @property
    def chat(self) -> list[Message] | None:
        """The messages for the model's chat template; None: the prompt goes to the model as written.

        A prompt becomes a chat of one message by a system text, or by ``raw: false``.

        Raises:
            RequestError: neither prompt nor messages, or fields that contradict each other.
        """
        if (self.prompt is None) == (self.messages is None):
            found = (
                "neither prompt nor messages is" if self.prompt is None else "both prompt and messages are"
            )
            raise RequestError(f"{found} given; expected one of them.", param="prompt")
        if self.raw and (self.system or self.messages):
            other = "messages" if self.messages else "system"
            raise RequestError(
                f"raw and {other} are both given, but a raw prompt has no place for {other}.",
                hint=f"Leave one of them out, or write {other} into the prompt.",
                param="raw",
            )
        if self.messages is not None:
            return self._with_system(self.messages)
        if self.system or self.raw is False:
            return self._with_system([Message("user", self.prompt)])
        return None

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer asked for, may be :data:`AS_MANY_AS_FIT`; None leaves it open."""
        for layer in self.layers:
            count = one_of(max_tokens=layer.max_tokens, num_predict=layer.num_predict)
            if count is not None:
                return _positive(count)
        return None

    @property
    def wanted_context(self) -> int | None:
        """The least context asked for."""
        return next((layer.num_ctx for layer in self.layers if layer.num_ctx is not None), None)

    @property
    def all_stops(self) -> tuple[str, ...]:
        """The stop strings of the first layer that has any."""
        return next((layer.stops for layer in self.layers if layer.stop is not None), ())

    def _with_system(self, messages: list[Message]) -> list[Message]:
        if not self.system:
            return messages
        if messages[0].role == "system":
            raise RequestError(
                "system is given, and messages begins with a system message as well.",
                hint="Leave one of them out.",
                param="system",
            )
        return [Message("system", self.system), *messages]


def _positive(count: int) -> int:
    if count == 0:
        raise RequestError(
            "num_predict is 0; expected at least 1, or -1 for as many as fit.", param="num_predict"
        )
    return max(count, AS_MANY_AS_FIT)


#: What Ollama's clients put into ``options`` to arrange a machine, not an answer.
_MACHINE = ("num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "use_mmap", "use_mlock")

RULES = FieldRules(
    unsupported={
        **EVERYWHERE,
        **{f"options.{name}": rule for name, rule in {**SAMPLERS, **ANSWERS}.items()},
        "logprobs": neutral(False),
        "top_logprobs": neutral(0),
        "max_completion_tokens": neutral(),
        "stream_options": neutral({}),
        "n": neutral(1),
    },
    idle=frozenset({"keep_alive", *_MACHINE, *(f"options.{name}" for name in _MACHINE)}),
)
