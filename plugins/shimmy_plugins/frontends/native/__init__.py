"""shimmy's own API: one route that generates, from a prompt or messages, streamed or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import FrontendSpec

if TYPE_CHECKING:
    from shimmy.server.context import Frontend

ROUTES = ("POST /api/generate", "GET /api/models")


def _load() -> Frontend:
    from shimmy_plugins.frontends.native.frontend import NativeFrontend

    return NativeFrontend()


@hookimpl
def register_api_frontends(register: Callable[[FrontendSpec], None]) -> None:
    register(FrontendSpec("native", ROUTES, _load))
