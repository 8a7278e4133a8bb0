"""Who is alive: a heartbeat per worker, and what systemd is told (READY, STATUS, WATCHDOG) without libsystemd.

The daemon's main loop calls `tick`; the watchdog is fed only while every worker's heartbeat is fresh, so a daemon of
which one thread hangs is restarted instead of staying half dead. Protocol: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

from lineside.contracts import Clock, Status
from lineside.errors import ConfigError

log = logging.getLogger(__name__)

NS = 1_000_000_000
SEND_TIMEOUT_S = 1.0  # systemd reads at once; a socket that is full for longer is counted and tried again


class Worker:
    """The heartbeat of one worker: call it each round, `end` it when the worker returns."""

    __slots__ = ("_clock", "_long_until_ns", "beat_ns", "ended", "name", "stale_after_s")

    def __init__(self, clock: Clock, name: str, stale_after_s: float) -> None:
        self._clock = clock
        self.name = name
        self.stale_after_s = stale_after_s
        self.beat_ns = clock.monotonic_ns()
        self.ended = False
        self._long_until_ns = 0

    def __call__(self) -> None:
        self.beat_ns = self._clock.monotonic_ns()

    def end(self) -> None:
        """The worker returned on purpose: nobody waits for its heartbeat any more."""
        self.ended = True

    def allow(self, extra_s: float) -> None:
        """Be silent for up to `extra_s` from now on; 0 takes that back."""
        self()
        self._long_until_ns = self.beat_ns + int(extra_s * NS)

    def age_s(self, now_ns: int) -> float:
        return (now_ns - self.beat_ns) / NS

    def fresh(self, now_ns: int) -> bool:
        allowed_until_ns = max(self.beat_ns + int(self.stale_after_s * NS), self._long_until_ns)
        return self.ended or now_ns <= allowed_until_ns


class Health:
    """Every worker's heartbeat, and the one voice of the daemon to its service manager (silent without one)."""

    def __init__(self, clock: Clock, environ: Mapping[str, str] = os.environ) -> None:
        self._clock = clock
        self._address = _address(environ)
        self.watchdog_s = _watchdog_s(environ)  # None: nobody watches
        self._lock = Lock()
        self._workers: dict[str, Worker] = {}
        self._stale: frozenset[str] = frozenset()
        self._fed_ns: int | None = None
        self._is_ready = False
        self._send_failures = 0

    def worker(self, name: str, stale_after_s: float = 5.0) -> Worker:
        """A heartbeat that counts from now; the same name again replaces it (a worker that was started anew)."""
        worker = Worker(self._clock, name, stale_after_s)
        with self._lock:
            self._workers[name] = worker
        return worker

    @contextmanager
    def long_work(self, name: str, extra_s: float) -> Iterator[None]:
        """Known long work of one worker, such as the first build of a TensorRT engine: no heartbeat for `extra_s`.

        The other workers stay watched. While the daemon is not ready yet, systemd's start timeout moves too.
        """
        with self._lock:
            worker = self._workers.get(name)
        worker = worker or self.worker(name)
        worker.allow(extra_s)
        log.debug("%s: work that may take up to %.0f s begins", name, extra_s)
        if not self._is_ready:
            self._send(f"EXTEND_TIMEOUT_USEC={int(extra_s * 1e6)}")
        try:
            yield
        finally:
            worker.allow(0)

    def ready(self) -> None:
        """Tell systemd that the daemon decides from now on."""
        self._is_ready = True
        self._send("READY=1")
        self.tick()

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def tick(self) -> tuple[str, ...]:
        """Look at every heartbeat, feed the watchdog if all are fresh; the names of the stale workers, sorted.

        Call it at least twice as often as `watchdog_s`; it may be called much more often.
        """
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            workers = tuple(self._workers.values())
        stale = frozenset(worker.name for worker in workers if not worker.fresh(now_ns))
        for worker in workers:
            if worker.name in stale - self._stale:
                log.error(
                    "%s: no heartbeat for %.1f s (allowed %.1f s)%s",
                    worker.name,
                    worker.age_s(now_ns),
                    worker.stale_after_s,
                    "; the watchdog is not fed" if self.watchdog_s else "",
                )
            elif worker.name in self._stale - stale:
                log.warning("%s: alive again", worker.name)
        self._stale = stale
        if not stale and self.watchdog_s and self._due(now_ns, self.watchdog_s / 4) and self._send("WATCHDOG=1"):
            self._fed_ns = now_ns
        return tuple(sorted(stale))

    def workers(self) -> Status:
        """For `lineside status`: every worker with the age of its heartbeat, and whether systemd listens."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            workers = tuple(self._workers.values())
        return {
            "watchdog_s": self.watchdog_s,
            "notify_failures": self._send_failures,
            "workers": {
                worker.name: {
                    "age_s": round(worker.age_s(now_ns), 3),
                    "stale_after_s": worker.stale_after_s,
                    "state": "ended" if worker.ended else "fresh" if worker.fresh(now_ns) else "stale",
                }
                for worker in workers
            },
        }

    def _due(self, now_ns: int, every_s: float) -> bool:
        return self._fed_ns is None or now_ns - self._fed_ns >= every_s * NS

    def _send(self, message: str) -> bool:
        """Whether systemd has it (or there is nobody to tell); a failure is counted, never raised."""
        if self._address is None:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.settimeout(SEND_TIMEOUT_S)
                notify.connect(self._address)
                notify.sendall(message.encode())
        except OSError as error:
            if not self._send_failures:
                log.warning("NOTIFY_SOCKET: systemd cannot be told %s: %s", message.partition("=")[0], error)
            self._send_failures += 1
            return False
        return True


def _address(environ: Mapping[str, str]) -> str | None:
    """The notification socket: a path, or an abstract name that systemd writes with a leading "@"."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    if address[0] not in "@/":
        raise ConfigError(f"NOTIFY_SOCKET = {address!r}: neither a path nor an abstract socket (@name)")
    return "\0" + address[1:] if address[0] == "@" else address


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """The interval in which systemd expects a sign of life from this very process; None if it expects none."""
    interval = environ.get("WATCHDOG_USEC")
    if not interval or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not interval.isdecimal() or int(interval) == 0:
        raise ConfigError(f"WATCHDOG_USEC = {interval!r}: expected microseconds, a whole number above 0")
    return int(interval) / 1e6
