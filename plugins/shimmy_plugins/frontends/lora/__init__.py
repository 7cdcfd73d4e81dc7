"""Adapters while serving: load, replace and unload them, as vLLM and llama-server have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import FrontendSpec

if TYPE_CHECKING:
    from shimmy.server.context import Frontend

ROUTES = (
    "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter",
    "GET /lora-adapters",
    "POST /lora-adapters",
)


def _load() -> Frontend:
    from shimmy_plugins.frontends.lora.frontend import LoraFrontend

    return LoraFrontend()


@hookimpl
def register_api_frontends(register: Callable[[FrontendSpec], None]) -> None:
    register(FrontendSpec("lora", ROUTES, _load))
