"""The proxy of the chaos suite does to a connection what it says."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from chaos.proxy import Proxy

Eventually = Callable[..., None]


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.got = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                while chunk := peer.recv(65_536):
                    self.got += chunk
                    peer.sendall(chunk)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as running:
        yield running


def dial(proxy: Proxy) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    peer.sendall(b"hello")
    assert peer.recv(5) == b"hello"
    return peer


@pytest.mark.parametrize(("reset", "ends"), [(True, ConnectionResetError), (False, b"")])
def test_a_cut_ends_a_connection_by_rst_or_fin_and_the_next_one_works(
    proxy: Proxy, reset: bool, ends: type[Exception] | bytes
) -> None:
    with dial(proxy) as peer:
        proxy.cut(reset)
        if isinstance(ends, bytes):
            assert peer.recv(5) == ends
        else:
            with pytest.raises(ends):
                peer.recv(5)
    dial(proxy).close()
    assert [what for _, what in proxy.log] == [f"cut ({'RST' if reset else 'FIN'})"]


@pytest.mark.parametrize(("ways", "arrives"), [((), False), (("up",), False), (("down",), True)])
def test_a_black_hole_accepts_and_swallows_and_its_connections_are_reset_afterwards(
    proxy: Proxy, echo: Echo, eventually: Eventually, ways: tuple[str, ...], arrives: bool
) -> None:
    with dial(proxy) as peer:
        proxy.black_hole(*ways)  # type: ignore[arg-type]
        peer.sendall(b"into the hole")
        eventually(lambda: proxy.swallowed_bytes == len(b"into the hole"))
        assert (b"into the hole" in echo.got) == arrives
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as late:  # accepted, and no answer
            late.sendall(b"x")
            with pytest.raises(TimeoutError):
                late.recv(1)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    dial(proxy).close()


def test_a_stall_holds_back_and_then_lets_everything_through(proxy: Proxy, echo: Echo) -> None:
    with dial(proxy) as peer:
        proxy.stall()
        peer.sendall(b"later")
        peer.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.recv(5)
        proxy.heal()
        peer.settimeout(5)
        assert peer.recv(5) == b"later"


def test_delay_and_throttle_slow_a_connection_down(proxy: Proxy) -> None:
    with dial(proxy) as peer:
        began_s = time.monotonic()
        proxy.delay_s = 0.05
        peer.sendall(b"slow")
        assert peer.recv(5) == b"slow"
        assert time.monotonic() - began_s >= 0.1, "there and back"
        proxy.delay_s, proxy.bytes_per_s = 0.0, 100_000.0
        began_s, back = time.monotonic(), 0
        peer.sendall(bytes(10_000))
        while back < 10_000:
            back += len(peer.recv(65_536))
        assert time.monotonic() - began_s >= 0.1


def test_without_a_broker_a_client_is_turned_away(proxy: Proxy, echo: Echo) -> None:
    proxy.to_port = 1
    with pytest.raises(ConnectionResetError):  # at the connecting or at the first reading, as it happens
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5).recv(1)
