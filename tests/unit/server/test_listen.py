"""Which address the server ends up on, and what it says when it cannot have it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from shimmy.errors import ConfigError
from shimmy.server import listen as listen_module
from shimmy.server.listen import Listener, is_loopback, listen


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def _port_of(listener: Listener) -> int:
    ports = {sock.getsockname()[1] for sock in listener.sockets}
    assert ports == {listener.port}
    listener.close()
    return listener.port


def test_auto_takes_the_next_free_port(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen_module, "FIRST_PORT", taken)
    monkeypatch.setattr(listen_module, "LAST_PORT", taken + 20)
    assert taken < _port_of(listen("127.0.0.1", None)) <= taken + 20


def test_auto_takes_any_port_when_all_are_busy(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen_module, "FIRST_PORT", taken)
    monkeypatch.setattr(listen_module, "LAST_PORT", taken)
    assert _port_of(listen("127.0.0.1", None)) != taken


def test_the_default_host_brings_ipv6_loopback_along() -> None:
    listener = listen("127.0.0.1", None)
    listener.close()
    expected = ("127.0.0.1", "::1") if _has_ipv6() else ("127.0.0.1",)
    assert listener.hosts == expected
    assert listener.url == f"http://127.0.0.1:{listener.port}"
    assert listener.loopback_only


def test_a_machine_without_ipv6_is_served_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen_module, "LOOPBACK", ("127.0.0.1", "2001:db8::1"))
    listener = listen("127.0.0.1", None)
    listener.close()
    assert listener.hosts == ("127.0.0.1",)


def test_an_explicit_port_that_is_busy_is_refused(taken: int) -> None:
    with pytest.raises(ConfigError, match=f"127.0.0.1:{taken}: the port is in use") as caught:
        listen("127.0.0.1", taken)
    assert "--port" in str(caught.value)


def test_an_explicit_port_is_not_refused_for_its_ipv6_twin(taken: int) -> None:
    if not _has_ipv6():
        pytest.skip("no IPv6 here")
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::1", 0))
        other.listen()
        listener = listen("127.0.0.1", other.getsockname()[1])
        listener.close()
    assert listener.hosts == ("127.0.0.1",)


@pytest.mark.parametrize("host", ["example.com", "300.1.1.1", ""])
def test_names_are_not_resolved(host: str) -> None:
    with pytest.raises(ConfigError, match="expected an IP address or localhost"):
        listen(host, None)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no address 192\.0\.2\.1") as caught:
        listen("192.0.2.1", None)
    assert caught.value.param == "host"


def test_all_addresses() -> None:
    listener = listen("0.0.0.0", None)
    listener.close()
    assert listener.url == f"http://127.0.0.1:{listener.port}"
    assert not listener.loopback_only


def test_clients_may_connect_before_anyone_accepts() -> None:
    listener = listen("127.0.0.1", None)
    socket.create_connection(("127.0.0.1", listener.port)).close()
    listener.close()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.5.5.5", True), ("::1", True), ("10.0.0.1", False)],
)
def test_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
