"""The metrics endpoint: GET /metrics in a thread of its own, one scrape at a time, which pauses between two families.

No HTTP package: what a scraper says is one line and an Accept header, and the frame path needs Python's lock more.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from lineside.contracts import Beat, Status
from lineside.exposition import CONTENT_TYPE, Family, Form, text, wanted

_log = logging.getLogger(__name__)
_ROUND_S = 0.5
_ASK_S = 2.0  # a scraper has so long to say what it wants, and to take the answer
_REQUEST_BYTES = 16_384
_RETRY_S = 5.0
_PAUSE_S = 0.0002  # between two families: the frame path takes Python's lock


class Exporter:
    """Serves what `families` gives. Never fails the daemon: a port that is taken is said, counted and tried again."""

    def __init__(
        self, address: str, port: int, families: Callable[[], Iterable[Family]], beat: Beat = lambda: None
    ) -> None:
        self._address, self.port = address, port
        self._families = families
        self._beat = beat
        self._stop = threading.Event()
        self._listener: socket.socket | None = None
        self._counts = dict.fromkeys(("scrapes", "refused", "failures"), 0)
        self._error = ""
        self._took_ms = 0.0
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        listener = self._listener
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which nobody need wait for

    def status(self) -> Status:
        """`refused`: requests for something else; `failures`: scrapers that went away, and times without a port."""
        listens = f"http://{_bracketed(self._address)}:{self.port}/metrics" if self._listener else ""
        return {"listens": listens, **self._counts, "last_scrape_ms": self._took_ms, "last_error": self._error}

    def _run(self) -> None:
        retry_at = 0.0
        while not self._stop.is_set():
            self._beat()
            if self._listener is None:
                if time.monotonic() >= retry_at:
                    self._listen()
                    retry_at = time.monotonic() + _RETRY_S
                if self._listener is None:
                    self._stop.wait(_ROUND_S)
                    continue
            try:
                peer, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stop.is_set():
                    self._failed(str(error))
                self._stop.wait(_ROUND_S)
                continue
            with peer:
                try:
                    self._serve(peer)
                except OSError as error:
                    self._counts["failures"] += 1
                    _log.debug("metrics: the scraper went away: %s", error)
        if self._listener is not None:
            self._listener.close()

    def _listen(self) -> None:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        try:
            self._listener = socket.create_server((self._address, self.port), family=family, backlog=8)
        except OSError as error:
            self._failed(f"metrics.address = {self._address!r}, port = {self.port}: {error}: name another port")
            return
        self.port = self._listener.getsockname()[1]
        self._listener.settimeout(_ROUND_S)
        self._error = ""
        _log.info("metrics: http://%s:%d/metrics", _bracketed(self._address), self.port)

    def _failed(self, why: str) -> None:
        self._counts["failures"] += 1
        if why != self._error:
            _log.error("%s", why)
        self._error = why

    def _serve(self, peer: socket.socket) -> None:
        """One request, one answer. Raises OSError."""
        head = _head(peer)
        method, _, rest = head.partition(" ")
        target = rest.split(" ")[0]
        if not target or method not in ("GET", "HEAD"):
            self._refuse(peer, "405 Method Not Allowed" if target else "400 Bad Request", "use GET /metrics\n")
            return
        if urlsplit(target).path != "/metrics":
            self._refuse(peer, "404 Not Found", "the metrics are at /metrics\n")
            return
        form = wanted(_header(head, "accept"))
        body = self._render(form)
        answer = _answer("200 OK", CONTENT_TYPE[form], body)
        peer.sendall(answer if method == "GET" else answer.removesuffix(body))
        self._counts["scrapes"] += 1

    def _render(self, form: Form) -> bytes:
        began = time.monotonic()
        pieces: list[str] = []
        for piece in text(self._families(), form):
            pieces.append(piece)
            time.sleep(_PAUSE_S)
        self._took_ms = round((time.monotonic() - began) * 1e3, 2)
        return "".join(pieces).encode()

    def _refuse(self, peer: socket.socket, status: str, words: str) -> None:
        self._counts["refused"] += 1
        peer.sendall(_answer(status, "text/plain; charset=utf-8", words.encode()))


def _head(peer: socket.socket) -> str:
    """Everything up to the empty line. Raises OSError when it is too long or takes too long."""
    deadline = time.monotonic() + _ASK_S
    got = bytearray()
    while b"\r\n\r\n" not in got and b"\n\n" not in got:
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = peer.recv(4096)
        if not chunk:
            raise OSError("the request was cut short")
        got += chunk
        if len(got) > _REQUEST_BYTES:
            raise OSError("request too long")
    peer.settimeout(_ASK_S)
    return got.decode("latin-1")


def _header(head: str, name: str) -> str:
    for line in head.split("\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def _answer(status: str, kind: str, body: bytes) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode() + body


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
