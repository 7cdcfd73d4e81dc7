"""The route."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, websocket

from shimmy.errors import ShimmyError
from shimmy.server.context import ServerContext
from shimmy.server.served import ServedModel
from shimmy_plugins.frontends.native.answer import error_frame
from shimmy_plugins.frontends.websocket.connection import Connection

#: Chosen if it is offered: a page that offers its key as subprotocol must see one accepted.
SUBPROTOCOL = "shimmy"

GOING_AWAY = 1001


class WebSocketFrontend:
    """The native API's frames, over WebSocket connections."""

    def blueprint(self, context: ServerContext) -> Blueprint:
        routes = Blueprint("websocket", __name__)

        @routes.websocket("/ws/generate")
        async def generate() -> None:
            offered = SUBPROTOCOL in websocket.requested_subprotocols
            await websocket.accept(subprotocol=SUBPROTOCOL if offered else None)
            # Ends by being cancelled when the client goes, and by itself when the server stops.
            await Connection(context, websocket.receive, websocket.send).serve()
            await websocket.close(GOING_AWAY, "the server is shutting down")

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return error_frame(error)

    def example(self, url: str, model: ServedModel) -> str | None:  # noqa: ARG002
        return None
