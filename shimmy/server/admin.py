"""Who may change what the server serves: clients on this machine, and those with the admin key."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from shimmy.server.errors import ForbiddenError
from shimmy.server.keys import keys_in
from shimmy.server.listen import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from quart import Request

    from shimmy.settings import Settings

#: What proxies add: then the client is another one than the address says.
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})


def is_admin(scope: Mapping[str, Any], settings: Settings) -> bool:
    """Whether an ASGI connection comes from this machine or carries the admin key."""
    key = _key(settings)
    if key and any(hmac.compare_digest(given, key) for given in keys_in(scope)):
        return True
    address, *_ = scope.get("client") or ("",)
    return is_loopback(address) and not any(name.lower() in _FORWARDED for name, _ in scope["headers"])


def check_admin(request: Request, settings: Settings) -> None:
    """Raise ForbiddenError unless :func:`is_admin`."""
    if is_admin(request.scope, settings):
        return
    raise ForbiddenError(
        "this is for clients on the server's own machine, and for those with the admin key.",
        hint="Send it as 'Authorization: Bearer KEY'; the setting admin_key holds it."
        if _key(settings)
        else "Set admin_key and send it as 'Authorization: Bearer KEY'.",
    )


def _key(settings: Settings) -> bytes:
    """The admin key; empty if there is none."""
    return settings.admin_key.get_secret_value().strip().encode() if settings.admin_key else b""
