"""Keeps one connection to a broker: a thread that dials, waits, hands over what comes, and has the sink speak.

The journal's thread sends a live row itself, as soon as it is committed; all else, and what it cannot, is done by the
caller's own thread, which runs the network.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from lineside.contracts import Beat, Status
from lineside.deliver.feed import Feed, Outlet, Rules
from lineside.deliver.inflight import Backoff
from lineside.deliver.journal import Journal
from lineside.deliver.link import Broker, Incoming, Link, Will, wait
from lineside.errors import DeviceError

FAREWELL_S = 0.3  # of a stop's time kept for the last words

log = logging.getLogger(__name__)


class Speaker(Outlet, Protocol):
    """The sink behind a caller: what it says and hears. Every method is called with the caller's lock held, in its
    thread but for `send`, which the journal's thread calls for live rows; all must return soon."""

    def will(self) -> Will:
        """What the broker says for us when we vanish; asked before each connection."""

    def greet(self) -> None:
        """A connection is up."""

    def speak(self, now: float) -> float:
        """Send what may go now; how long to wait for more, in seconds. Raises DeviceError."""

    def hear(self, message: Incoming) -> None:
        """A message came on a subscribed topic."""

    def farewell(self) -> int | None:
        """Say the last words; the packet to wait for."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits; [mqtt] explains each."""

    ack_timeout_s: float = 10.0
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 30.0


class Caller:
    """`link` is the connection, None between two; `up_since` when it came up (time.monotonic)."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        journal: Journal,
        speaker: Speaker,
        *,
        rules: Rules,
        patience: Patience,
        topics: tuple[str, ...] = (),
        unanswered: str = "no acknowledgement",
        beat: Beat = lambda: None,
    ) -> None:
        self._name = name
        self._broker = broker
        self._speaker = speaker
        self._patience = patience
        self._unanswered = unanswered
        self._backoff = Backoff(patience.reconnect_min_s, patience.reconnect_max_s)
        self._beat = beat
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.wake = partial(os.eventfd_write, self._wake_fd, 1)
        self._lock = threading.Lock()  # everything below, the link and the feed
        self.topics = topics  # to subscribe to on each connection
        self.link: Link | None = None
        self.up_since: float | None = None
        self.was_reached = True  # the last attempt to connect got as far as the broker
        self._deaf: set[str] = set()  # topics that we may not subscribe to
        self._dial_at = self._disk_at = 0.0
        self._counts: Counter[str] = Counter()
        self._error, self._error_at = "", 0.0
        self._fault, self._refused_at = "", 0.0  # of the last connection
        self._stop_at: float | None = None
        self.feed = Feed(journal, name, speaker, rules, self._committed)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # --- for the sink

    def start(self) -> None:
        self._thread.start()

    def stop(self, flush_s: float) -> None:
        """Send what is live and say the last words, within `flush_s`; the backlog waits for the next start."""
        self._stop_at = time.monotonic() + flush_s
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(flush_s + 0.5)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        return self._stop_at is not None

    def status(self) -> Status:
        link, feed = self.link, self.feed.status()
        refused = feed.pop("refused")
        return {
            "connected": self.up_since is not None,
            "state": link.state if link else "waiting",
            "broker": str(self._broker),
            **feed,
            **{name: self._counts[name] for name in ("connects", "disconnects", "ack_timeouts")},
            "refused": refused,
            "last_error": self._error,
            "last_error_s_ago": round(time.monotonic() - self._error_at, 1) if self._error else None,
        }

    def failed(self, why: str) -> None:
        """What `status` shows as the last error."""
        self._error, self._error_at = why, time.monotonic()

    def refused(self, why: str) -> None:
        """The same for a refusal, which says more than the connection's end that may follow it."""
        self._refused_at = time.monotonic()
        self.failed(why)

    # --- its thread

    def _run(self) -> None:
        while True:
            self._beat()
            with self._lock:
                self._tend()
                link, wait_s = self.link, self._patience_s(self._work())
                if self._finished():  # asked last: what the journal holds is known even when the stop comes at once
                    break
            if link is None:
                wait(self._wake_fd, wait_s)
                continue
            events = link.wait(self._wake_fd, wait_s)
            with self._lock:
                link.handle(events)
                self._look_for_refused(link)
        with self._lock:
            self._farewell()
        self.feed.cursor.close()

    def _committed(self) -> None:
        """In the journal's thread, after each commit: one change of threads less on the way to the subscriber."""
        if not self._lock.acquire(blocking=False):
            self.wake()  # the caller's thread is at work and must look again
            return
        try:
            done = self.up_since is not None and self._stop_at is None and self.feed.send_recent()
        finally:
            self._lock.release()
        link = self.link
        if not done or link is None or link.state != "up" or link.wants_write():
            self.wake()

    def _finished(self) -> bool:
        if self._stop_at is None:
            return False
        if self.up_since is None or not self.feed.is_open or time.monotonic() > self._stop_at - FAREWELL_S:
            return True
        return self.feed.is_drained()

    def _patience_s(self, wait_s: float) -> float:
        now = time.monotonic()
        if self.link is None:
            wait_s = min(wait_s, self._dial_at - now)
        if self._stop_at is not None:
            wait_s = min(wait_s, max(self._stop_at - FAREWELL_S - now, 0.0) + 0.001)
        return min(wait_s, 1.0)

    def _tend(self) -> None:
        """Dial when it is time, and notice what became of the link."""
        now = time.monotonic()
        if self.link is None and now >= self._dial_at and self._stop_at is None:
            heard = (self.topics, self._speaker.hear)
            self.link = Link(self._broker, self._speaker.will(), self.feed.answered, *heard)
            self.link.dial(self.wake)
        link = self.link
        if link is None:
            return
        if link.state == "up" and self.up_since is None:
            self._connected(now)
        if self.feed.inflight.waits_s() > self._patience.ack_timeout_s:
            self._counts["ack_timeouts"] += 1
            link.close(f"{self._unanswered} within {self._patience.ack_timeout_s:g} s")
        if link.state == "down":
            self._disconnected(link, now)

    def _connected(self, now: float) -> None:
        self.up_since = now
        self._counts["connects"] += 1
        log.info("%s %s: connected", self._name, self._broker)
        self._speaker.greet()

    def _look_for_refused(self, link: Link) -> None:
        """Subscriptions that the broker did not grant: told once until it does."""
        for topic, code in link.granted.items():
            if code < 0x80:
                self._deaf.discard(topic)
            elif topic not in self._deaf:
                self.failed(f"the broker refused to let us subscribe to {topic} (reason code {code}): check its ACL")
                log.warning("%s %s: %s", self._name, self._broker, self._error)
                self._deaf.add(topic)

    def _disconnected(self, link: Link, now: float) -> None:
        lasted_s = 0.0 if self.up_since is None else now - self.up_since
        self._counts["disconnects"] += self.up_since is not None
        if link.fault != self._fault:
            log.warning("%s %s: %s; decisions wait in the journal", self._name, self._broker, link.fault)
        self._fault = link.fault
        if now - self._refused_at > 1.0:  # else the refusal, after which some brokers close, says more
            self.failed(link.fault)
        self.up_since = self.link = None
        self.was_reached = link.was_reached
        self.feed.lost()
        self._dial_at = now + self._backoff.next_s(lasted_s, self.feed.counts["acked"])

    def _work(self) -> float:
        """Read the journal and have the sink send what may go now; how long to wait for more, in seconds."""
        now = time.monotonic()
        if now < self._disk_at:
            return self._disk_at - now
        try:
            self.feed.tend(now, self.link.heard_at if self.link else float("-inf"))
            return self._speaker.speak(now) if self.up_since is not None else 1.0
        except DeviceError as error:
            self.failed(str(error))
            self._disk_at = now + 1.0
            return 1.0

    def _farewell(self) -> None:
        link = self.link
        if link is None:
            return
        if self.up_since is not None:
            packet = self._speaker.farewell()
            until = time.monotonic() + FAREWELL_S
            while packet in self.feed.inflight and link.state == "up" and time.monotonic() < until:
                link.handle(link.wait(self._wake_fd, until - time.monotonic()))
            if packet not in self.feed.inflight and link.state == "up":  # the broker lives, and has the last words
                self.feed.settle_all()
        link.disconnect()
        self.up_since = None
