"""The requests."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from shimmy.server.body import FieldRules
from shimmy.server.mixed import Scale


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter to load, as vLLM's clients name it."""

    lora_name: str
    lora_path: str
    load_inplace: bool | None = None
    """Whether an adapter of this name is replaced; vLLM's name for it."""
    replace: bool | None = None
    base_model_name: str | None = None
    """The model it is for; None: the default one."""

    @property
    def replaces(self) -> bool:
        return bool(self.load_inplace or self.replace)


class UnloadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter to unload."""

    lora_name: str


class ScaleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The factor of an adapter for requests that do not say, as llama-server's clients send it."""

    id: Annotated[int, Meta(ge=0)]
    scale: Scale


LOAD_RULES = FieldRules(unsupported={}, idle=frozenset())
UNLOAD_RULES = FieldRules(unsupported={}, idle=frozenset({"lora_int_id"}))
