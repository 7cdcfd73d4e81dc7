"""The routes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from quart import Blueprint, Response, request

from shimmy.discovery.catalog import ModelCard
from shimmy.errors import ShimmyError
from shimmy.server import sse
from shimmy.server.body import read_object
from shimmy.server.context import ServerContext
from shimmy.server.reply import annotate, json_response
from shimmy.server.served import ServedModel
from shimmy_plugins.frontends.native.answer import Job, error_frame, frames, or_error, prepare, whole

_DONE = sse.event(b"[DONE]")


class NativeFrontend:
    """shimmy's own API for one server."""

    def blueprint(self, context: ServerContext) -> Blueprint:
        routes = Blueprint("native", __name__)

        @routes.post("/api/generate")
        async def generate() -> Response:
            # Any content type: `curl -d` without a header says "form".
            data = await request.get_data()
            assert isinstance(data, bytes)
            job = await prepare(context, read_object(data), "native")
            response = sse.event_stream(_events(job)) if job.stream else json_response(await whole(job))
            return annotate(response, seed=job.request.sampling.seed, ignored=job.ignored)

        @routes.get("/api/models")
        async def models() -> Response:
            states = {state.name: state.state for state in context.models.states()}
            rows = [_row(card, states.get(card.name)) for card in await context.list_models()]
            for name, card in (await context.own_names()).items():
                rows.append(_row(card, states.get(card.name)) | {"name": name})
            return json_response({"models": rows})

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return error_frame(error)

    def example(self, url: str, model: ServedModel) -> str | None:  # noqa: ARG002
        return None


async def _events(job: Job) -> AsyncGenerator[bytes, None]:
    """The frames as events. After an error no ``[DONE]`` follows."""
    frame: dict[str, Any] = {}
    async with aclosing(or_error(frames(job))) as parts:
        async for frame in parts:
            yield sse.event(msgspec.json.encode(frame))
    if "error" not in frame:
        yield _DONE


def _row(card: ModelCard, state: str | None) -> dict[str, Any]:
    """A model of the list; ``state`` is null while nobody wants it loaded."""
    return {
        "name": card.name,
        "source": card.source,
        "model_type": card.architecture,
        "quantization": card.quantization,
        "parameter_count": card.parameters,
        "size_bytes": card.size_bytes,
        "context_length": card.context_length,
        "state": state,
    }
