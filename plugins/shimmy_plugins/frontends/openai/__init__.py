"""The OpenAI API: chat and text completions, streamed or not, and the list of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import FrontendSpec

if TYPE_CHECKING:
    from shimmy.server.context import Frontend

ROUTES = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "GET /v1/models",
    "GET /v1/models/{id}",
)


def _load() -> Frontend:
    from shimmy_plugins.frontends.openai.frontend import OpenAIFrontend

    return OpenAIFrontend()


@hookimpl
def register_api_frontends(register: Callable[[FrontendSpec], None]) -> None:
    register(FrontendSpec("openai", ROUTES, _load))
