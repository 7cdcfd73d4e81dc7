"""shimmy's own API over WebSocket: many requests on one connection, each of which can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import FrontendSpec

if TYPE_CHECKING:
    from shimmy.server.context import Frontend

ROUTES = ("GET /ws/generate",)


def _load() -> Frontend:
    from shimmy_plugins.frontends.websocket.frontend import WebSocketFrontend

    return WebSocketFrontend()


@hookimpl
def register_api_frontends(register: Callable[[FrontendSpec], None]) -> None:
    register(FrontendSpec("websocket", ROUTES, _load))
