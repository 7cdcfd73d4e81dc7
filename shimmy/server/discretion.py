"""What clients elsewhere are told of errors: what is wrong with a file, but not where it lies.

Clients on this machine, and those with the admin key, are told in full. Errors name files in many places,
those of plugins among them, so folders are left out where errors leave the server.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shimmy.errors import RequestError, ShimmyError
from shimmy.server.admin import is_admin

if TYPE_CHECKING:
    from shimmy.server.gate import ASGIApp, Scope
    from shimmy.settings import Settings

#: The folders of an absolute path, POSIX's or Windows', up to its last part. Their names may hold spaces.
_FOLDERS = re.compile(r"""(?<![\w.:~/\\])(?:[A-Za-z]:)?[/\\]+(?:[^\s/\\:'"][^/\\:'"\n]*[/\\]+)+""")

#: Whether the client of the running request may know where files lie. Streams, which outlive their
#: request in the framework, keep it.
_in_full: ContextVar[bool] = ContextVar("in_full", default=False)


class Discretion:
    """An ASGI app in which :func:`told` knows who is asking."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            _in_full.set(is_admin(scope, self._settings))
        await self._app(scope, receive, send)


def told(error: ShimmyError) -> ShimmyError:
    """The error as the client that is being answered may see it.

    What is wrong with a request repeats at most what the client sent.
    """
    if _in_full.get() or isinstance(error, RequestError):
        return error
    hint = None if error.hint is None else without_folders(error.hint)
    shown = ShimmyError(without_folders(error.message), hint=hint, param=error.param)
    shown.status, shown.code = error.status, error.code
    return shown


def without_folders(text: str) -> str:
    """``/home/me/my lora/adapter_config.json: is no JSON`` as ``adapter_config.json: is no JSON``."""
    return _FOLDERS.sub("", text)
