"""The routes. All answer at once, whatever the engines are doing."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

from quart import Blueprint, Response

from shimmy.errors import ShimmyError
from shimmy.server.app import plain_error_body
from shimmy.server.context import ServerContext
from shimmy.server.models import ModelState
from shimmy.server.reply import json_response
from shimmy.server.served import ServedModel
from shimmy.specs import MetricSpec
from shimmy_plugins.frontends.ops.recorder import Counts, Recorder
from shimmy_plugins.frontends.ops.report import OK, health_report

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class OpsFrontend:
    """Health, readiness and metrics of one server."""

    def __init__(self) -> None:
        self._recorder = Recorder()

    def blueprint(self, context: ServerContext) -> Blueprint:
        # The recorder is a plugin of its own, so that its numbers belong to this server alone.
        context.plugins.add(f"ops recorder {id(self):x}", self._recorder)
        routes = Blueprint("ops", __name__)

        @routes.get("/health")
        async def health() -> Response:
            return json_response(health_report(context))

        @routes.get("/ready")
        async def ready() -> Response:
            report = health_report(context)
            return json_response(report, 200 if report["status"] == OK else 503)

        @routes.get("/metrics")
        async def metrics() -> Response:
            # In a thread, with its import: both take a moment, and no stream should wait for it.
            counts, states = deepcopy(self._recorder.counts), context.models.states()
            text = await asyncio.to_thread(_exposition, counts, states, list(context.plugins.metrics))
            return Response(text, content_type=METRICS_TYPE)

        return routes

    def error_body(self, error: ShimmyError) -> Any:
        return plain_error_body(error)

    def example(self, url: str, model: ServedModel) -> str | None:  # noqa: ARG002
        return None


def _exposition(counts: Counts, states: list[ModelState], extra: list[MetricSpec]) -> bytes:
    from shimmy_plugins.frontends.ops.exposition import exposition

    return exposition(counts, states, extra)
