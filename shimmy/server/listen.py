"""Binding the server's sockets: standard library only, done before anything heavy is imported.

Only ``auto`` moves: 11435, else the next free port up to 11535, else any free one. An address
given explicitly is bound or refused. The sockets already listen, so a client that is faster than
the imports waits instead of being turned away.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from shimmy.errors import ConfigError

FIRST_PORT = 11435
LAST_PORT = 11535
LOOPBACK = ("127.0.0.1", "::1")
_BACKLOG = 128
#: Any free port is the kernel's choice for the first host only; the second may then be taken.
_ANY_PORT_TRIES = 16

# Windows reports an address held exclusively by someone else as "permission denied".
_BUSY = {errno.EADDRINUSE} | ({errno.EACCES} if sys.platform == "win32" else set())
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


@dataclass(frozen=True, slots=True)
class Listener:
    """Listening sockets, all of one port; ``hosts`` are the addresses they are bound to."""

    hosts: tuple[str, ...]
    port: int
    sockets: tuple[socket.socket, ...]

    @property
    def url(self) -> str:
        """The base URL a client on this machine uses."""
        host = self.hosts[0]
        local = {"0.0.0.0": LOOPBACK[0], "::": LOOPBACK[1]}.get(host, host)  # noqa: S104
        return f"http://[{local}]:{self.port}" if ":" in local else f"http://{local}:{self.port}"

    @property
    def loopback_only(self) -> bool:
        """Whether only this machine can reach the server."""
        return all(is_loopback(host) for host in self.hosts)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def is_loopback(host: str) -> bool:
    """Whether ``host`` is ``localhost`` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int | None) -> Listener:
    """Listen on ``host``; ``port`` None looks for a free one, a number is taken or refused.

    The default loopback address brings ``::1`` along, so that ``localhost`` works whichever way
    a client resolves it.

    Raises:
        ConfigError: the address is no address, not this machine's, busy, or not permitted.
    """
    hosts = LOOPBACK if host in (LOOPBACK[0], "localhost") else (host,)
    if port is not None:
        return _bind_explicit(hosts, port)
    for candidate in _candidates():
        if listener := _bind_all(hosts, candidate):
            return listener
    raise ConfigError(f"no free port on {host}.", hint="Name one with --port.", param="port")


def _candidates() -> Iterator[int]:
    yield from range(FIRST_PORT, LAST_PORT + 1)
    for _ in range(_ANY_PORT_TRIES):
        yield 0


def _bind_explicit(hosts: tuple[str, ...], port: int) -> Listener:
    sock = _bind(hosts[0], port)
    if sock is None:
        raise ConfigError(
            f"cannot listen on {_display(hosts[0], port)}: the port is in use by another program.",
            hint="Stop that program, name another port with --port, or leave it out to get a free one.",
            param="port",
        )
    sockets = {hosts[0]: sock}
    for companion in hosts[1:]:
        # Not asked for by name, so a busy one is no reason to refuse.
        if extra := _bind(companion, port, optional=True):
            sockets[companion] = extra
    return Listener(tuple(sockets), port, tuple(sockets.values()))


def _bind_all(hosts: tuple[str, ...], port: int) -> Listener | None:
    """All hosts on one port, leaving out what this machine does not have; None if one is busy."""
    sockets: dict[str, socket.socket] = {}
    for host in hosts:
        try:
            sock = _bind(host, port)
        except _NoSuchAddressError:
            if not sockets:
                raise
            continue
        except ConfigError:
            _close(sockets)
            raise
        if sock is None:
            _close(sockets)
            return None
        sockets[host] = sock
        port = sock.getsockname()[1]
    return Listener(tuple(sockets), port, tuple(sockets.values()))


class _NoSuchAddressError(ConfigError):
    """This machine has no such address."""


def _bind(host: str, port: int, *, optional: bool = False) -> socket.socket | None:
    """A listening socket; None when the port is busy (or, if ``optional``, for any reason)."""
    family, address = _resolve(host, port)
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        _set_options(sock, host)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno in _BUSY or optional:
            return None
        raise _bind_error(error, host, port) from error
    return sock


def _set_options(sock: socket.socket, host: str) -> None:
    if sys.platform == "win32":
        # There SO_REUSEADDR would let two servers share a port, each getting some requests.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        # Lets a restarted server have its port back while old connections time out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Family and address of a numeric host. Names would need a name server: they are refused."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(
            f"cannot listen on {host!r}: expected an IP address or localhost.",
            hint="Use 0.0.0.0 to listen on all addresses of this machine.",
            param="host",
        ) from None
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]  # IPv6 addresses have two more members


def _bind_error(error: OSError, host: str, port: int) -> ConfigError:
    where = _display(host, port)
    if error.errno in _NO_IPV6:
        return _NoSuchAddressError(
            f"cannot listen on {where}: this machine has no address {host}.",
            hint="Use 127.0.0.1, or 0.0.0.0 for all of its addresses.",
            param="host",
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"cannot listen on {where}: not permitted.",
            hint="Choose a port above 1023 with --port.",
            param="port",
        )
    return ConfigError(
        f"cannot listen on {where}: {error.strerror or error}.",
        hint="Choose another address with --bind.",
        param="bind_address",
    )


def _display(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _close(sockets: dict[str, socket.socket]) -> None:
    for sock in sockets.values():
        sock.close()
