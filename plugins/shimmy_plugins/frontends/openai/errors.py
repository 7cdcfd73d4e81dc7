"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from typing import Any

from shimmy.errors import ShimmyError


def error_body(error: ShimmyError) -> dict[str, Any]:
    """OpenAI's error object; all four keys are always there."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
