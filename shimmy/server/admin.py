"""Who may change what the server serves: clients on this machine, and those with the admin key."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from shimmy.server.errors import ForbiddenError
from shimmy.server.keys import keys_in
from shimmy.server.listen import is_loopback

if TYPE_CHECKING:
    from quart import Request

    from shimmy.settings import Settings

#: What proxies add: then the client is another one than the address says.
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


def is_admin(request: Request, settings: Settings) -> bool:
    """Whether the request comes from this machine or carries the admin key."""
    key = _key(settings)
    if key and any(hmac.compare_digest(given, key) for given in keys_in(request.scope)):
        return True
    return is_loopback(request.remote_addr or "") and not any(name in request.headers for name in _FORWARDED)


def check_admin(request: Request, settings: Settings) -> None:
    """Raise ForbiddenError unless :func:`is_admin`."""
    if is_admin(request, settings):
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
