"""What /health and /ready say."""

from __future__ import annotations

from typing import Any

from shimmy import __version__
from shimmy.errors import ShimmyError
from shimmy.server.context import ServerContext
from shimmy.server.discretion import told
from shimmy.server.models import ModelState

OK = "ok"


def health_report(context: ServerContext) -> dict[str, Any]:
    """The state of the server and of each model in it.

    ``status`` is ok, or what the default model is: loading, restarting, failed. It is idle when
    nothing is loaded and the first request will load what it needs.
    """
    states = context.models.states()
    report: dict[str, Any] = {
        "status": _status(context, states),
        "version": __version__,
        "models": [_model(state) for state in states],
    }
    if context.default.error and report["status"] == "failed":
        report["error"] = _error(context.default.error)
    return report


def _status(context: ServerContext, states: list[ModelState]) -> str:
    default = context.default
    by_name = {state.name: state.state for state in states}
    if default.name in by_name:
        state = by_name[default.name]
        return {"ready": OK, "queued": "loading", "stopped": "loading"}.get(state, state)
    if "ready" in by_name.values():
        return OK  # another model has taken the default one's place
    if default.error:
        return "failed"
    return "loading" if default.wanted and default.name is None else "idle"


def _model(state: ModelState) -> dict[str, Any]:
    report: dict[str, Any] = {"name": state.name, "state": state.state}
    if state.state == "loading" and state.progress:
        progress = state.progress
        report["progress"] = {"phase": progress.phase, "done": progress.done, "total": progress.total}
    if state.facts:
        report |= {
            "backend": state.facts.backend,
            "precision": state.facts.precision,
            "description": state.facts.description,
            "context": state.facts.context,
        }
    if state.error:
        report["error"] = _error(state.error)
    if state.facts and state.path and not state.path.exists():
        report["warning"] = (
            "its file is gone: it is served until its engine ends, and cannot be loaded again."
        )
    return report


def _error(error: ShimmyError) -> dict[str, Any]:
    return {"message": str(told(error)), "code": error.code}
