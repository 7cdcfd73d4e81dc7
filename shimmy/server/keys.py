"""API keys: which are valid, and where a connection may carry one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimmy.settings import Settings

#: Pages cannot set headers of a WebSocket, but offer subprotocols: this one, and the key in base64url.
#: In the URL a key would end up in histories and logs, so none is looked for there.
KEY_SUBPROTOCOL = "shimmy.key."

_log = logging.getLogger(__name__)


class KeyRing:
    """The valid keys: one from the settings, and those of a file, which is read again when it changes.

    Args:
        key: a key, or None.
        file: a file with a key per line, or None. Empty lines and those that begin with ``#`` say
            nothing.
        admin: a key that is valid as well, but does not do alone.

    Raises:
        ConfigError: the file cannot be read, or there is not one key.
    """

    def __init__(self, key: str | None, file: Path | None, admin: str | None = None) -> None:
        self._own = [_digest(key.strip().encode())] if key and key.strip() else []
        self._file = file
        self._state: tuple[int, ...] = ()
        self._listed: list[bytes] = []
        if file is not None:
            try:
                self._state, self._listed = _state(file), _read(file)
            except OSError as error:
                raise ConfigError(
                    f"api_key_file is {str(file)!r}, which cannot be read: {error.strerror or error}.",
                    param="api_key_file",
                ) from None
        if not self._own and not self._listed:
            name = "api_key" if file is None else "api_key_file"
            raise ConfigError(f"{name} holds no key; expected a text that is not empty.", param=name)
        if admin and admin.strip():
            self._own.append(_digest(admin.strip().encode()))

    def accepts(self, given: bytes) -> bool:
        """Whether ``given`` is a valid key. How long it takes tells nothing of them."""
        self._refresh()
        digest = _digest(given)
        # All are compared, so that a match does not end the comparison.
        return sum(hmac.compare_digest(digest, valid) for valid in (*self._own, *self._listed)) > 0

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            if (state := _state(self._file)) != self._state:
                self._state, self._listed = state, _read(self._file)
        except OSError as error:
            if self._state:
                _log.error("api_key_file cannot be read any more, so its keys are void: %s", error.strerror)
            self._state, self._listed = (), []


def key_ring(settings: Settings) -> KeyRing | None:
    """The keys that the settings ask for; None: requests need no key."""
    if settings.api_key is None and settings.api_key_file is None:
        return None
    key = settings.api_key.get_secret_value() if settings.api_key else None
    admin = settings.admin_key.get_secret_value() if settings.admin_key else None
    return KeyRing(key, settings.api_key_file, admin)


def keys_in(scope: Mapping[str, Any]) -> Iterator[bytes]:
    """The keys that an ASGI connection carries: as bearer token, as ``X-API-Key``, as subprotocol."""
    for name, value in scope["headers"]:
        if name.lower() == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()
        elif name.lower() == b"x-api-key":
            yield value.strip()
    for offered in scope.get("subprotocols", ()):
        if offered.startswith(KEY_SUBPROTOCOL):
            encoded = offered.removeprefix(KEY_SUBPROTOCOL)
            try:
                yield base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            except (ValueError, binascii.Error):
                continue


def _digest(key: bytes) -> bytes:
    """Of one length for all keys, and of no use to who sees it."""
    return hashlib.sha256(key).digest()


def _state(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(file: Path) -> list[bytes]:
    lines = (line.strip() for line in file.read_bytes().splitlines())
    return [_digest(line) for line in lines if line and not line.startswith(b"#")]
