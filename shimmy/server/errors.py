"""Errors that only an HTTP server has."""

from __future__ import annotations

import logging
import traceback

from shimmy.errors import RequestError, ShimmyError

_log = logging.getLogger(__name__)


class HTTPError(RequestError):
    """No such route, wrong method, body too large: what the web framework found, in our tree."""

    code = "http_error"

    def __init__(self, status: int, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class ForbiddenError(RequestError):
    """The request's Host or Origin is not one this server answers."""

    status = 403
    code = "forbidden"


class UnauthorizedError(RequestError):
    """The request carries no valid API key."""

    status = 401
    code = "invalid_api_key"


class StoppingError(ShimmyError):
    """The server is shutting down and takes no more requests."""

    status = 503
    code = "server_stopping"

    def __init__(self) -> None:
        super().__init__("the server is shutting down.")


def internal_error(error: Exception, doing: str) -> ShimmyError:
    """What a client is told of a bug; the log gets the rest.

    Frames and type only: the message of an unforeseen exception may hold what a client sent.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed with %s\n%s", doing, type(error).__name__, frames)
    return ShimmyError("an internal error occurred.", hint="The server's log has the details.")
