"""Sampling: what requests of all APIs may say, what they get that say nothing, and both together."""

from __future__ import annotations

import hashlib
import logging
import reprlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from shimmy.engine.protocol import Sampling
from shimmy.errors import RequestError
from shimmy.server.body import one_of

if TYPE_CHECKING:
    from shimmy.settings import Settings

Temperature: TypeAlias = Annotated[float, Meta(ge=0, le=2)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
#: -1 is another spelling of 0, "all". No vocabulary comes near the upper bound.
TopK: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
#: Logits are divided by it in single precision: much less and they are no numbers any more.
RepeatPenalty: TypeAlias = Annotated[float, Meta(ge=0.01, le=10)]
Seed: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Bias: TypeAlias = Annotated[float, Meta(ge=-100, le=100)]
#: An empty stop string would end every answer before it begins.
StopString: TypeAlias = Annotated[str, Meta(min_length=1)]

MAX_STOPS = 16
_SEED_BITS = 31
#: Digits of the largest token id there could be. Python refuses to read numbers of thousands.
_ID_DIGITS = 10

#: Where a model file recommends what, as converters write it, and what may stand there.
_IN_FILES: Mapping[str, tuple[str, Any]] = {
    "temperature": ("general.sampling.temp", Temperature),
    "top_p": ("general.sampling.top_p", Fraction),
    "top_k": ("general.sampling.top_k", TopK),
    "min_p": ("general.sampling.min_p", Fraction),
    "repeat_penalty": ("general.sampling.penalty_repeat", RepeatPenalty),
}

_log = logging.getLogger(__name__)


class SamplingFields(Struct, frozen=True, kw_only=True):
    """How a request may choose tokens and end answers; None is not given."""

    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: TopK | None = None
    min_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    """Another spelling of ``repeat_penalty``."""
    logit_bias: dict[str, Bias] | None = None
    seed: Seed | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None

    @property
    def repetition(self) -> float | None:
        """The penalty on repetition, by either name."""
        return one_of(repeat_penalty=self.repeat_penalty, repetition_penalty=self.repetition_penalty)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however many."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request gets that does not say; as it stands, nothing that changes the model's own numbers."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0


def sampling_defaults(metadata: Mapping[str, Any], settings: Settings) -> SamplingDefaults:
    """The defaults of a model: the settings win over what its file recommends."""
    known = {name: _recommended(metadata, key, kind) for name, (key, kind) in _IN_FILES.items()}
    known |= {name: value for name, value in settings.sampling if value is not None}
    return SamplingDefaults(**{name: value for name, value in known.items() if value is not None})


def choose_sampling(
    layers: Sequence[SamplingFields],
    defaults: SamplingDefaults,
    vocabulary: int,
    *,
    logprobs: int | None = None,
) -> Sampling:
    """How to choose tokens: of each field the first given value. Without a seed one is drawn.

    Args:
        layers: where a request may say it, the strongest first.
        vocabulary: the number of token ids.
        logprobs: alternatives wanted with each token; None: no log-probabilities.

    Raises:
        RequestError: ``logit_bias`` names what is no token id, or two names of a field disagree.
    """

    def given(name: str, otherwise: Any = None) -> Any:
        values = (getattr(layer, name) for layer in layers)
        return next((value for value in values if value is not None), otherwise)

    seed = given("seed")
    return Sampling(
        temperature=given("temperature", defaults.temperature),
        top_p=given("top_p", defaults.top_p),
        top_k=max(given("top_k", defaults.top_k), 0),
        min_p=given("min_p", defaults.min_p),
        repeat_penalty=given("repetition", defaults.repeat_penalty),
        presence_penalty=given("presence_penalty", 0.0),
        frequency_penalty=given("frequency_penalty", 0.0),
        logit_bias=_logit_bias(given("logit_bias", {}), vocabulary),
        seed=secrets.randbits(_SEED_BITS) if seed is None else seed,
        logprobs=logprobs,
    )


def choice_seed(seed: int, number: int) -> int:
    """The seed of one of several answers to a prompt; the first has the request's own.

    Hashed, since with ``seed + 1`` the second answer would be the first one of the next request.
    """
    if number == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def check_token_ids(ids: Sequence[int], vocabulary: int, param: str) -> None:
    """Raise RequestError unless all ``ids`` are of this vocabulary."""
    wrong = [token for token in ids if not 0 <= token < vocabulary]
    if wrong:
        raise RequestError(
            f"{param} has the token id {wrong[0]}; this model's ids are 0 to {vocabulary - 1}.", param=param
        )


def _recommended(metadata: Mapping[str, Any], key: str, kind: Any) -> Any:
    if (value := metadata.get(key)) is None:
        return None
    try:
        number = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        _log.warning("the model file's %s is left aside: %s.", key, error)
        return None
    # Files hold single precision: 0.949999988 was written as 0.95.
    return max(number, 0) if kind is TopK else float(f"{number:.7g}")


def _logit_bias(biases: Mapping[str, float], vocabulary: int) -> dict[int, float]:
    wrong = [token for token in biases if not (token.isascii() and token.isdigit())]
    wrong += [token for token in biases if len(token) > _ID_DIGITS]
    if wrong:
        shown = reprlib.repr(wrong[0])
        raise RequestError(f"logit_bias has the key {shown}; expected token ids.", param="logit_bias")
    by_id = {int(token): bias for token, bias in biases.items()}
    check_token_ids(list(by_id), vocabulary, "logit_bias")
    return by_id
