"""The Quart app: mounts the chosen frontends, turns every failure into the right kind of error."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from quart import Quart, Response, has_websocket_context, request, websocket
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing.exceptions import WebsocketMismatch

from shimmy.errors import PluginError, ShimmyError, did_you_mean
from shimmy.plugins import check_routes, chosen_frontends, route_shape
from shimmy.server.discretion import Discretion, told
from shimmy.server.errors import HTTPError, internal_error
from shimmy.server.gate import Gate
from shimmy.server.guard import Guard
from shimmy.server.keys import key_ring
from shimmy.server.listen import LOOPBACK

if TYPE_CHECKING:
    from quart import ResponseReturnValue

    from shimmy.hooks import Plugins
    from shimmy.server.context import Frontend, ServerContext
    from shimmy.specs import FrontendSpec

#: Larger than the text of any context we can serve.
MAX_BODY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Mounted:
    """A frontend in an app."""

    spec: FrontendSpec
    frontend: Frontend


def create_app(
    context: ServerContext, frontends: Sequence[Mounted] | None = None, *, bound: Iterable[str] = LOOPBACK
) -> Quart:
    """The app of a server bound to the addresses ``bound``; ``frontends`` None: as the settings choose.

    Raises:
        PluginError: two of the chosen frontends claim one route, one serves others than it claims, or fails.
        ConfigError: there should be API keys, but there are none.
    """
    app = Quart("shimmy", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    # A generation takes as long as it takes.
    app.config["RESPONSE_TIMEOUT"] = None
    if frontends is None:
        frontends = choose_frontends(context.plugins, context.settings.frontends)
    check_routes(each.spec for each in frontends)
    for each in frontends:
        _mount(app, each, context)
    errors = _Errors(context.plugins, frontends)
    app.register_error_handler(Exception, errors.respond)
    guard = Guard(bound, context.settings.allowed_hosts, context.settings.allowed_origins)
    keys = key_ring(context.settings)
    public = {route for each in frontends for route in each.spec.public}
    inner = Discretion(app.asgi_app, context.settings)
    app.asgi_app = Gate(inner, guard, keys, public, errors.body)  # type: ignore[method-assign,assignment]

    @app.while_serving
    async def report_life() -> AsyncGenerator[None, None]:
        context.plugins.server_started(context)
        yield
        context.plugins.server_stopping(context)
        await context.models.close()

    return app


def choose_frontends(plugins: Plugins, names: Iterable[str] | None) -> list[Mounted]:
    """The frontends of :func:`shimmy.plugins.chosen_frontends`, loaded."""
    return [Mounted(spec, spec.load()) for spec in chosen_frontends(plugins, names)]


def _mount(app: Quart, each: Mounted, context: ServerContext) -> None:
    """Give a frontend its routes: those that it has declared, for others were not checked."""
    name = each.spec.name
    try:
        app.register_blueprint(each.frontend.blueprint(context), name=name)
    except Exception as error:  # whatever a plugin's own code raises
        raise PluginError(
            f"frontend {name} cannot be mounted: {type(error).__name__}: {error}",
            hint="Repair it, or leave it out with `plugins.disabled` or --without.",
        ) from error
    declared = set(map(route_shape, each.spec.routes))
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{name}."):
            for method in (rule.methods or {"GET"}) - {"HEAD", "OPTIONS"}:
                if route_shape(f"{method} {rule.rule}") not in declared:
                    raise PluginError(
                        f"frontend {name} serves '{method} {rule.rule}', which is none of its routes.",
                        hint="Name all its routes where it is registered.",
                    )


def plain_error_body(error: ShimmyError) -> Any:
    """The shape of errors where no frontend is responsible."""
    return {"error": {"message": str(error), "code": error.code, "param": error.param}}


class _Errors:
    """Answers for requests that failed."""

    def __init__(self, plugins: Plugins, mounted: Sequence[Mounted]) -> None:
        self._plugins = plugins
        self._mounted = mounted

    async def respond(self, error: Exception) -> ResponseReturnValue:
        """A plugin's answer if one has any, else the responsible frontend's."""
        asked = _asked()
        if (answer := self._plugins.handle_error(error, asked)) is not None:
            return answer
        known = self._known(error)
        response = Response(self.body(asked.path, known), known.status, content_type="application/json")
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(error.valid_methods)
        return response

    def body(self, path: str, error: ShimmyError) -> bytes:
        """The JSON of an error in the shape of the frontend that ``path`` belongs to."""
        frontend, shown = self._responsible(path), told(error)
        return msgspec.json.encode(frontend.error_body(shown) if frontend else plain_error_body(shown))

    def _responsible(self, path: str) -> Frontend | None:
        """The frontend whose routes share the most leading segments with ``path``."""
        best: tuple[int, Frontend | None] = (0, None)
        for each in self._mounted:
            for route in each.spec.routes:
                shared = _shared_segments(path, route.partition(" ")[2])
                best = max(best, (shared, each.frontend), key=lambda pair: pair[0])
        return best[1]

    def _known(self, error: Exception) -> ShimmyError:
        if isinstance(error, ShimmyError):
            return error
        if isinstance(error, HTTPException):
            return self._http_error(error)
        return internal_error(error, f"{_asked().method} {_asked().path}")

    def _http_error(self, error: HTTPException) -> HTTPError:
        status = error.code or 500
        method, path = _asked().method, _asked().path
        if status == 404:
            known = {route.partition(" ")[2] for each in self._mounted for route in each.spec.routes}
            return HTTPError(
                404, "route_not_found", f"there is no {path!r} here.", hint=did_you_mean(path, known)
            )
        if isinstance(error, WebsocketMismatch):
            hint = "Open a WebSocket." if not has_websocket_context() else "Send an HTTP request."
            return HTTPError(426, "wrong_protocol", f"{path!r} speaks another protocol.", hint=hint)
        if isinstance(error, MethodNotAllowed):
            hint = f"Use {' or '.join(sorted(error.valid_methods or ()))}."
            return HTTPError(405, "method_not_allowed", f"{method} is not for {path!r}.", hint=hint)
        if status == 413:
            limit = f"the request body is larger than {MAX_BODY_BYTES // 2**20} MiB."
            return HTTPError(413, "request_too_large", limit, hint="Send less text.")
        return HTTPError(status, "http_error", f"{error.name}.")


def _asked() -> Any:
    """The request, or the WebSocket, that is being served."""
    return websocket if has_websocket_context() else request


def _shared_segments(path: str, route: str) -> int:
    shared = 0
    for have, claimed in zip(path.strip("/").split("/"), route.strip("/").split("/"), strict=False):
        if have != claimed:
            break
        shared += 1
    return shared
