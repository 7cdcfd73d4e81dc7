"""The field ``lora`` of requests: adapters to mix into an answer."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from shimmy.engine.protocol import MOST_MIXED


class Lora(Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter by name, and how strongly it is applied."""

    name: str
    scale: Annotated[float, Meta(ge=-100, le=100)] = 1.0


#: On top of the model's own adapter, if it has one.
Mixture: TypeAlias = Annotated[list[Lora], Meta(max_length=MOST_MIXED)]
