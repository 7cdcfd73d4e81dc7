"""Keeps web pages of strangers out: which ``Host`` and ``Origin`` headers are let in.

A browser will carry a stranger's page to a local server in two ways. *DNS rebinding*: the page's
own host name suddenly resolves to 127.0.0.1, so the request carries a foreign name in ``Host``.
*Drive-by requests*: the page posts to 127.0.0.1 directly, so the request carries a foreign
``Origin``. Both are refused with 403, whatever frontend they are meant for.

Rules for ``Host`` (the port never matters):

- loopback names and addresses are accepted, and so is everything in ``allowed_hosts``;
- on a server bound beyond loopback, so are IP addresses and this machine's own name. An address
  cannot be rebound, and a name resolved by someone else must be allowed explicitly.

Rules for ``Origin``: none at all (not a web page), loopback, the server itself (same as ``Host``),
or listed in ``allowed_origins`` (``*`` lists all). Only listed origins get CORS headers, so only
their pages can read answers.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from shimmy.server.errors import ForbiddenError
from shimmy.server.listen import is_loopback

#: ``host``, ``host:port``, ``[address]`` or ``[address]:port``.
_NETLOC = re.compile(r"(?:\[([0-9a-f:.%]+)\]|([^\[\]:]+))(?::\d*)?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#]+)/?", re.IGNORECASE)


class Guard:
    """Decides by ``Host`` and ``Origin``; see the module's text for the rules.

    Args:
        bound: the addresses the server listens on.
        allowed_hosts: further names ``Host`` may have.
        allowed_origins: origins whose pages may call and read.
    """

    def __init__(
        self, bound: Iterable[str], allowed_hosts: Iterable[str] = (), allowed_origins: Iterable[str] = ()
    ) -> None:
        self._beyond_loopback = not all(is_loopback(host) for host in bound)
        self._hosts = {_name_in(host) or host.lower() for host in allowed_hosts}
        if self._beyond_loopback:
            self._hosts.add(socket.gethostname().lower())
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}

    def check(self, host: str | None, origin: str | None) -> ForbiddenError | None:
        """What is wrong with a request of these headers, or None."""
        if host is None or not self._host_allowed(_name_in(host)):
            return ForbiddenError(
                f"the request is for host {host!r}, which is not a name of this server.",
                hint="Use localhost, or add the name to the allowed_hosts setting.",
                param="Host",
            )
        if origin is not None and not self._origin_allowed(origin, host):
            return ForbiddenError(
                f"web pages of {origin!r} may not call this server.",
                hint="Add the origin to the allowed_origins setting to let them.",
                param="Origin",
            )
        return None

    def may_read(self, origin: str | None) -> bool:
        """Whether pages of ``origin`` get CORS headers."""
        return origin is not None and (origin.lower() in self._origins or "*" in self._origins)

    def _host_allowed(self, name: str | None) -> bool:
        if name is None:
            return False
        if is_loopback(name) or name.endswith(".localhost") or name in self._hosts or "*" in self._hosts:
            return True
        return self._beyond_loopback and _is_address(name)

    def _origin_allowed(self, origin: str, host: str) -> bool:
        if self.may_read(origin):
            return True
        if (parts := _ORIGIN.fullmatch(origin)) is None:
            return False
        return parts[1].lower() == host.lower() or is_loopback(_name_in(parts[1]) or "")


def _name_in(netloc: str) -> str | None:
    """The host of ``host:port`` in lower case, without brackets and trailing dot; None: it is malformed."""
    if (parts := _NETLOC.fullmatch(netloc.lower())) is None:
        return None
    return str(parts[1] or parts[2].rstrip("."))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
