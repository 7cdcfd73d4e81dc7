"""The way into the app, for HTTP and WebSocket alike: an ASGI wrapper that checks every connection.

In this order: ``Host`` and ``Origin`` (:mod:`shimmy.server.guard`), then a browser's preflight
request is answered, then the API key is checked. What is refused never reaches the app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, MutableMapping
from typing import Any, TypeAlias

from shimmy.errors import ShimmyError
from shimmy.server.errors import UnauthorizedError
from shimmy.server.guard import Guard
from shimmy.server.keys import KeyRing, keys_in

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_CORS_METHODS = b"GET, POST, OPTIONS"
_CORS_MAX_AGE = b"600"
#: Lets a WebSocket be refused with an answer instead of just closed.
_DENIAL = "websocket.http.response"


class Gate:
    """An ASGI app behind a :class:`Guard` and a :class:`KeyRing`.

    Args:
        keys: the valid keys; None: no key is asked for.
        public: routes such as "GET /about" that are served without one.
        error_body: writes the JSON of a refusal, given the path that was asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        guard: Guard,
        keys: KeyRing | None,
        public: Container[str],
        error_body: Callable[[str, ShimmyError], bytes],
    ) -> None:
        self._app = app
        self._guard = guard
        self._keys = keys
        self._public = public
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        host, origin = _header(scope, b"host"), _header(scope, b"origin")
        if error := self._guard.check(host, origin):
            await self._refuse(scope, send, error)
            return
        if scope["type"] == "http" and origin is not None and self._guard.may_read(origin):
            send = _with_cors(send, origin)
            if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method"):
                # Browsers send no key along here.
                await _respond(send, 204, _preflight_headers(scope))
                return
        if missing := self._key_error(scope):
            await self._refuse(scope, send, missing)
        else:
            await self._app(scope, receive, send)

    def _key_error(self, scope: Scope) -> ShimmyError | None:
        if self._keys is None or self._is_public(scope):
            return None
        given = list(keys_in(scope))
        if any(map(self._keys.accepts, given)):
            return None
        problem = "the API key is not valid." if given else "this server asks for an API key."
        return UnauthorizedError(
            problem, hint="Send a valid one as 'Authorization: Bearer KEY'.", param="Authorization"
        )

    def _is_public(self, scope: Scope) -> bool:
        method = scope.get("method", "GET")
        return f"{'GET' if method == 'HEAD' else method} {scope['path']}" in self._public

    async def _refuse(self, scope: Scope, send: Send, error: ShimmyError) -> None:
        headers = [(b"content-type", b"application/json")]
        if isinstance(error, UnauthorizedError):
            headers.append((b"www-authenticate", b"Bearer"))
        if scope["type"] == "http":
            kind = "http.response"
        elif _DENIAL in (scope.get("extensions") or {}):
            kind = _DENIAL
        else:
            # Closing before accepting is a 403 to the client.
            await send({"type": "websocket.close", "code": 1008})
            return
        await _respond(send, error.status, headers, self._error_body(scope["path"], error), kind=kind)


def _with_cors(send: Send, origin: str) -> Send:
    """Lets pages of ``origin`` read the answer and its headers."""
    cors = [
        (b"access-control-allow-origin", origin.encode("latin1")),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"Origin"),
    ]

    async def send_with_cors(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *cors]}
        await send(message)

    return send_with_cors


def _preflight_headers(scope: Scope) -> Headers:
    wanted = _header(scope, b"access-control-request-headers") or "content-type"
    headers = [
        (b"access-control-allow-methods", _CORS_METHODS),
        (b"access-control-allow-headers", wanted.encode("latin1")),
        (b"access-control-max-age", _CORS_MAX_AGE),
    ]
    if _header(scope, b"access-control-request-private-network"):
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers


async def _respond(
    send: Send, status: int, headers: Headers, body: bytes = b"", *, kind: str = "http.response"
) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key.lower() == name:
            return str(value.decode("latin1"))
    return None
