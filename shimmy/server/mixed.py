"""The field ``lora`` of requests: adapters to mix into an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

from msgspec import Meta, Struct

from shimmy.engine.protocol import MOST_MIXED
from shimmy.errors import RequestError

if TYPE_CHECKING:
    from shimmy.gguf.card import ModelCard

Scale: TypeAlias = Annotated[float, Meta(ge=-100, le=100)]


class Lora(Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter by name, or by the number that its API lists it under, and how strongly it is applied."""

    name: str | None = None
    id: Annotated[int, Meta(ge=0)] | None = None
    scale: Scale = 1.0


#: On top of the model's own adapter, if it has one. Given at all, it takes the place of what applies to
#: everyone's requests.
Mixture: TypeAlias = Annotated[list[Lora], Meta(max_length=MOST_MIXED)]


def check_mixture(model: ModelCard, mixed: Sequence[ModelCard]) -> None:
    """Raise RequestError unless all are adapters of the model's base, each there once."""
    base = model.base or model
    seen = {model.name} if model.base else set()
    for card in mixed:
        if card.base is None:
            raise RequestError(f"{card.name!r} is a model, not an adapter.", param="lora")
        if card.base.name != base.name:
            problem = f"{card.name!r} is no adapter of {base.name!r}, but of {card.base.name!r}."
            raise RequestError(problem, hint="`shimmy list` shows each adapter's base.", param="lora")
        if card.name in seen:
            how = "the model has it already" if card.name == model.name else "lora names it twice"
            raise RequestError(f"the adapter {card.name!r} can be applied once, but {how}.", param="lora")
        seen.add(card.name)
