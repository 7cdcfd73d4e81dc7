"""For whoever runs the server: is it alive, is it ready, how is it doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy import hookimpl
from shimmy.specs import FrontendSpec

if TYPE_CHECKING:
    from shimmy.server.context import Frontend

#: Whoever watches the server from outside has no key.
PUBLIC = ("GET /health", "GET /ready")
ROUTES = (*PUBLIC, "GET /metrics")


def _load() -> Frontend:
    from shimmy_plugins.frontends.ops.frontend import OpsFrontend

    return OpsFrontend()


@hookimpl
def register_api_frontends(register: Callable[[FrontendSpec], None]) -> None:
    register(FrontendSpec("ops", ROUTES, _load, always_on=True, public=PUBLIC))
