"""Carries journal rows to an MQTT broker: live ones first, older ones to .../backfill, none forgotten.

The journal's thread publishes a live row itself, as soon as it is committed; all else, and what it cannot, is done by
the sink's own thread, which runs the network. A row is delivered when a success reason code came for it; whatever
happens before that sends it again.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from lineside.contracts import Beat, Status
from lineside.deliver import messages
from lineside.deliver.inflight import Backoff, InFlight, Resting
from lineside.deliver.journal import Journal
from lineside.deliver.link import OF_THE_MESSAGE, REMEDY, TOO_LARGE, Broker, Link, wait
from lineside.deliver.tables import Row
from lineside.deliver.topics import Topics
from lineside.errors import DeviceError

SLICE = 16  # backlog rows between two looks at what is live
BUSY_S = 1.0  # so long after a live row the line counts as running
BUSY_PAUSE_S = 0.01  # between two slices while it runs: the frame path needs Python's lock more
FAREWELL_S = 0.3  # of a stop's time kept for the offline status

log = logging.getLogger(__name__)


class MqttSink:
    """A contracts.Sink. `describe` adds fields to the retained status; options are those of config.delivery."""

    def __init__(
        self,
        journal: Journal,
        *,
        site: str,
        line: str,
        version: str,
        host: str,
        port: int = 1883,
        protocol: Literal["5", "3.1.1"] = "5",
        box: str | None = None,
        client_id: str | None = None,
        username: str | None = None,
        password_file: Path | None = None,
        tls: bool = False,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        topic: str = "lineside/{site}/{line}/{station}/{kind}",
        status_topic: str = "lineside/{site}/{line}/{box}/status",
        keepalive_s: int = 15,
        inflight: int = 32,
        live_max_age_ms: int = 5000,
        live_expiry_s: int | None = None,
        backfill_expiry_s: int | None = None,
        ack_timeout_s: float = 10.0,
        settle_s: float = 2.0,
        reconnect_min_s: float = 0.5,
        reconnect_max_s: float = 30.0,
        heartbeat_s: float = 10.0,
        beat: Beat = lambda: None,
        describe: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._box = box or platform.node() or "box"
        who = (client_id or f"lineside-{self._box}", username, password_file)
        self._broker = Broker(host, port, protocol, *who, tls, ca_file, cert_file, key_file, keepalive_s)
        self._topics = Topics(topic, status_topic, site, line, self._box)
        self._version, self._heartbeat_s = version, heartbeat_s
        self._inflight_max = inflight
        self._live_max_age_ms = live_max_age_ms
        self._expiry_s = {False: live_expiry_s, True: backfill_expiry_s}
        self._ack_timeout_s = ack_timeout_s
        self._backoff = Backoff(reconnect_min_s, reconnect_max_s)
        self._resting = Resting(reconnect_max_s)
        self._beat = beat
        self._describe = describe

        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake = partial(os.eventfd_write, self._wake_fd, 1)
        self._journal = journal
        self._clock = journal.clock
        self._lock = threading.Lock()  # everything below, and the link
        self._link: Link | None = None
        self._inflight = InFlight(settle_s)
        self._next_live = 0  # id of the first row that no one has tried on this connection; 0: not yet known
        self._scan: int | None = None  # where the look for undelivered older rows goes on; None: it is done
        self._oldest_s: float | None = None  # age of the oldest undelivered row
        self._oldest_at = self._backlog_at = self._live_at = self._status_at = self._dial_at = self._disk_at = 0.0
        self._up_since: float | None = None
        self._counts: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()  # reason code -> refusals
        self._error, self._error_at = "", 0.0
        self._fault, self._refused_at = "", 0.0  # of the last connection
        self._stop_at: float | None = None
        self._cursor = journal.cursor("mqtt", self._committed)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    # --- for the daemon

    def start(self) -> None:
        self._thread.start()

    def stop(self, flush_s: float) -> None:
        """Publish what is live and say offline, within `flush_s`; the backlog waits for the next start."""
        self._stop_at = time.monotonic() + flush_s
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(flush_s + 0.5)

    def status(self) -> Status:
        link, up_since = self._link, self._up_since
        return {
            "connected": up_since is not None,
            "state": link.state if link else "waiting",
            "broker": str(self._broker),
            "pending": self._pending(),
            "oldest_pending_s": self._oldest_s,
            "inflight": len(self._inflight.rows),
            **{name: self._counts[name] for name in ("published", "acked", "backfilled")},
            **{name: self._counts[name] for name in ("connects", "disconnects", "ack_timeouts")},
            "refused": {str(code): count for code, count in sorted(self._refused.items())},
            "last_error": self._error,
            "last_error_s_ago": round(time.monotonic() - self._error_at, 1) if self._error else None,
        }

    # --- the sink's thread

    def _run(self) -> None:
        while True:
            self._beat()
            with self._lock:
                self._tend()
                link, wait_s = self._link, self._patience_s(self._work())
                if self._finished():  # asked last: what the journal holds is known even when the stop comes at once
                    break
            if link is None:
                wait(self._wake_fd, wait_s)
                continue
            events = link.wait(self._wake_fd, wait_s)
            with self._lock:
                link.handle(events)
        with self._lock:
            self._farewell()
        self._cursor.close()

    def _committed(self) -> None:
        """In the journal's thread, after each commit: one change of threads less on the way to the subscriber."""
        if not self._lock.acquire(blocking=False):
            self._wake()  # the sink's thread is at work and must look again
            return
        try:
            done = self._up_since is not None and self._next_live > 0 and self._send_recent()
        finally:
            self._lock.release()
        link = self._link
        if not done or link is None or link.state != "up" or link.wants_write():
            self._wake()

    def _send_recent(self) -> bool:
        """Publish what is live and still in memory; False when something is left for the sink's thread."""
        if self._journal.generation != self._cursor.generation or self._stop_at is not None:
            return False
        last = self._journal.last_id
        rows = self._journal.recent(self._next_live, last, self._room())
        return rows is not None and self._send_rows(rows) and self._next_live > last

    def _finished(self) -> bool:
        if self._stop_at is None:
            return False
        if self._up_since is None or not self._cursor.generation or time.monotonic() > self._stop_at - FAREWELL_S:
            return True
        return not self._inflight.rows and self._next_live > self._cursor.last_id()

    def _patience_s(self, wait_s: float) -> float:
        now = time.monotonic()
        if self._link is None:
            wait_s = min(wait_s, self._dial_at - now)
        if self._stop_at is not None:
            wait_s = min(wait_s, max(self._stop_at - FAREWELL_S - now, 0.0) + 0.001)
        return min(wait_s, 1.0)

    def _tend(self) -> None:
        """Dial when it is time, and notice what became of the link."""
        now = time.monotonic()
        if self._link is None and now >= self._dial_at and self._stop_at is None:
            will = messages.offline(self._box, "connection lost")
            self._link = Link(self._broker, (self._topics.status, will), self._on_ack)
            self._link.dial(self._wake)
        link = self._link
        if link is None:
            return
        if link.state == "up" and self._up_since is None:
            self._connected(now)
        if self._inflight.waits_s() > self._ack_timeout_s:
            self._counts["ack_timeouts"] += 1
            link.close(f"no acknowledgement within {self._ack_timeout_s:g} s")
        if link.state == "down":
            self._disconnected(link, now)

    def _connected(self, now: float) -> None:
        self._up_since = now
        self._counts["connects"] += 1
        self._status_at = 0.0
        self._next_live = 0
        log.info("mqtt %s: connected", self._broker)

    def _disconnected(self, link: Link, now: float) -> None:
        lasted_s = 0.0 if self._up_since is None else now - self._up_since
        self._counts["disconnects"] += self._up_since is not None
        if link.fault != self._fault:
            log.warning("mqtt %s: %s; decisions wait in the journal", self._broker, link.fault)
        self._fault = link.fault
        if now - self._refused_at > 1.0:  # else the refusal, after which some brokers close, says more
            self._failed(link.fault)
        self._up_since = self._link = None
        self._inflight.clear()
        self._resting.lost()
        self._dial_at = now + self._backoff.next_s(lasted_s, self._counts["acked"])

    def _failed(self, why: str) -> None:
        self._error, self._error_at = why, time.monotonic()

    def _work(self) -> float:
        """Read the journal and publish what may go now; how long to wait for more, in seconds."""
        now = time.monotonic()
        if now < self._disk_at:
            return self._disk_at - now
        try:
            if self._cursor.refresh():  # the first store, or one that replaced it: ids mean other rows now
                self._inflight.void_rows()
                self._next_live = 0
            for row_id in self._inflight.settling.settled():
                self._cursor.deliver(row_id)
            if now - self._oldest_at > 1.0:
                self._oldest_at, self._oldest_s = now, self._cursor.oldest_pending_s()
            return self._send(now) if self._up_since is not None else 1.0
        except DeviceError as error:
            self._failed(str(error))
            self._disk_at = now + 1.0
            return 1.0

    def _send(self, now: float) -> float:
        if now >= self._status_at:
            self._publish_status()
        if not self._cursor.generation:
            return self._status_at - now
        if not self._next_live:
            self._next_live = self._cursor.first_live(self._live_max_age_ms * 1_000_000)
            self._scan = 1
        self._send_live()
        wait_s = self._send_backlog(now) if self._stop_at is None else 1.0
        return min(wait_s, self._status_at - now)

    def _send_live(self) -> None:
        while self._room() > 0 and self._next_live <= self._cursor.last_id():
            rows = self._cursor.rows(self._next_live, self._cursor.last_id(), self._room())
            if not self._send_rows(rows):
                return
            if not rows:  # pruned, or taken out by hand
                self._next_live = self._cursor.last_id() + 1

    def _send_rows(self, rows: list[Row]) -> bool:
        for row in rows:
            if not self._is_sent(row) and not self._publish(row):
                return False
            self._next_live = row.id + 1
            self._live_at = time.monotonic()
        return True

    def _send_backlog(self, now: float) -> float:
        """One slice of older rows, when nothing is live; how long to wait for the next, in seconds."""
        if self._scan is None:
            retry_at = self._resting.next_at()
            if now < retry_at:
                return retry_at - now
            self._scan = 1
        room = min(self._room() - self._inflight_max // 4, SLICE)  # a quarter of the window is for live rows only
        if room <= 0 or self._next_live <= self._cursor.last_id():
            return 1.0  # an acknowledgement will wake us
        if now < self._backlog_at:
            return self._backlog_at - now
        rows, following = self._cursor.backlog(self._scan, self._next_live, room)
        for row in rows:
            if not self._is_sent(row) and not self._publish(row):
                return 0.0
        self._scan = following if following < self._next_live else None
        busy = now - self._live_at < BUSY_S
        self._backlog_at = now + (BUSY_PAUSE_S if busy else 0.0)
        return BUSY_PAUSE_S if busy else 0.0

    def _room(self) -> int:
        link = self._link
        return min(self._inflight_max, link.receive_max if link else 0) - len(self._inflight)

    def _publish(self, row: Row) -> bool:
        """Send one row, unless the broker refused its like just now; False when the link went down."""
        topic = self._topics.of(row.station, row.kind)
        if not self._resting.may_send(topic, row.id):
            return True
        age_ms = self._cursor.age_ms(row)
        backfill = not self._cursor.is_of_this_boot(row) or age_ms is None or age_ms > self._live_max_age_ms
        payload = messages.message(
            row.body,
            kind=row.kind,
            station=row.station,
            epoch=row.epoch,
            seq=row.seq,
            decided_late=row.late,
            backfill=backfill,
            age_ms=age_ms,
        )
        link = self._link
        if link is None:
            return False
        if link.packet_max_bytes is not None and len(payload) + len(topic) + 64 > link.packet_max_bytes:
            self._refuse(TOO_LARGE, row)
            return True
        full = topic + "/backfill" if backfill else topic
        if (mid := link.publish(full, payload, expiry_s=self._expiry_s[backfill])) is None:
            return False
        self._inflight.sent(mid, row)
        self._counts["published"] += 1
        self._counts["backfilled"] += backfill
        self._sent(row)
        return True

    def _is_sent(self, row: Row) -> bool:
        return self._inflight.has_row(row.id) or self._cursor.is_delivered(row.id)

    def _pending(self) -> int:
        return max(self._cursor.pending() - len(self._inflight.settling), 0)

    def _sent(self, row: Row) -> None:
        """Sent is not delivered: nothing moves here."""

    def _on_ack(self, mid: int, reason: int) -> None:
        row = self._inflight.answered(mid)
        if row is None:
            return
        if reason >= 0x80:
            self._refuse(reason, row)
            return
        self._inflight.settling.add(row.id)
        self._counts["acked"] += 1
        if self._resting.accepted(self._topics.of(row.station, row.kind), row.id):
            self._scan = 1

    def _refuse(self, reason: int, row: Row) -> None:
        """The broker took no responsibility: the row stays undelivered and is tried again, the rest goes on."""
        topic = self._topics.of(row.station, row.kind)
        self._refused[reason] += 1
        self._refused_at = time.monotonic()
        self._resting.refused(row.id if reason in OF_THE_MESSAGE else topic)
        self._failed(f"the broker refused {topic} (reason code {reason}): {REMEDY.get(reason, 'see its log')}")

    def _publish_status(self) -> None:
        self._status_at = time.monotonic() + self._heartbeat_s
        self._publish_retained(messages.online(self._box, self._version, {**self._fields(), **self._describe()}))

    def _fields(self) -> dict[str, object]:
        return {
            "at": messages.rfc3339(self._clock.wall_ns()),
            "clock_synchronized": self._clock.synchronized(),
            "heartbeat_s": self._heartbeat_s,
            "epoch": self._journal.epoch,
            "last_seq": self._journal.last_seq(),
            "previous": self._journal.previous(),
            "pending": self._pending(),
        }

    def _publish_retained(self, payload: bytes) -> int | None:
        link = self._link
        mid = link.publish(self._topics.status, payload, retain=True) if link else None
        if mid is not None:
            self._inflight.sent(mid, None)
        return mid

    def _farewell(self) -> None:
        if self._link is None:
            return
        if self._up_since is not None:
            mid = self._publish_retained(messages.offline(self._box, "stopped", self._fields()))
            until = time.monotonic() + FAREWELL_S
            while mid in self._inflight and self._link.state == "up" and time.monotonic() < until:
                self._link.handle(self._link.wait(self._wake_fd, until - time.monotonic()))
        if self._link.state == "up":
            for row_id in self._inflight.settling.take_all():
                self._cursor.deliver(row_id)
        self._link.disconnect()
        self._up_since = None
