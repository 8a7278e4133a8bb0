"""What of the journal a sink sends next: live rows first, slices of older ones behind them, a bounded number at once.

Knows rows and the answers to them, and nothing of connections or messages: those are the outlet's. A row is delivered
when a success reason code came for it; whatever happens before that sends it again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lineside.deliver.inflight import InFlight, Resting
from lineside.deliver.journal import Journal
from lineside.deliver.link import OF_THE_MESSAGE
from lineside.deliver.tables import Row

SLICE = 16  # backlog rows between two looks at what is live
BUSY_S = 1.0  # so long after a live row the line counts as running
BUSY_PAUSE_S = 0.01  # between two slices while it runs: the frame path needs Python's lock more


class TooLarge(Exception):
    """This row can't be sent as it is; others can."""

    def __init__(self, reason: int) -> None:
        super().__init__(f"reason code {reason}")
        self.reason = reason


class Outlet(Protocol):
    """What a feed sends through; called with the lock of whoever calls the feed."""

    def window(self) -> int:
        """How many messages the other side takes before it has answered one."""

    def topic(self, row: Row) -> str:
        """What the other side accepts or refuses as one: after a refusal all of it rests."""

    def send(self, row: Row, backfill: bool, age_ms: int | None) -> int | None:
        """Send a row; the packet that `Feed.answered` will be told of, or None when the link went down.

        Raises TooLarge. `backfill` says that the row is too old to act on.
        """

    def refused(self, topic: str, reason: int) -> None:
        """The other side took no responsibility for what was sent there; a row stays undelivered and is tried again."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a feed sends; [mqtt] explains each."""

    inflight: int = 32
    live_max_age_ms: int = 5000
    settle_s: float = 2.0
    rest_max_s: float = 30.0  # what was refused is tried again after so long at most


class Feed:
    """One sink's way through the journal. Not thread-safe: callers keep all methods from running at the same time.

    `wake` is called in the journal's thread after each commit. Methods that read the disk raise DeviceError.
    """

    def __init__(self, journal: Journal, sink: str, outlet: Outlet, rules: Rules, wake: Callable[[], None]) -> None:
        self.counts: Counter[str] = Counter()  # published acked backfilled
        self.refusals: Counter[int] = Counter()  # reason code -> how many
        self.inflight = InFlight(rules.settle_s)
        self.cursor = journal.cursor(sink, wake)
        self._journal = journal
        self._outlet = outlet
        self._rules = rules
        self._resting = Resting(rules.rest_max_s)
        self._next_live = 0  # id of the first row that no one has tried on this connection; 0: not yet known
        self._scan: int | None = None  # where the look for undelivered older rows goes on; None: it is done
        self._oldest_s: float | None = None  # age of the oldest undelivered row
        self._oldest_at = self._backlog_at = self._live_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the journal's store was opened."""
        return self.cursor.generation > 0

    def pending(self) -> int:
        """Rows that no success reason code came for."""
        return max(self.cursor.pending() - len(self.inflight.settling), 0)

    def status(self) -> dict[str, object]:
        return {
            "pending": self.pending() if self.is_open else None,  # None: not yet known
            "oldest_pending_s": self._oldest_s,
            "inflight": len(self.inflight.rows),
            **{name: self.counts[name] for name in ("published", "acked", "backfilled")},
            "refused": {str(code): count for code, count in sorted(self.refusals.items())},
        }

    def is_drained(self) -> bool:
        """Nothing live is left, and all that was sent is answered."""
        return not self.inflight.rows and self._next_live > self.cursor.last_id()

    # --- the connection

    def lost(self) -> None:
        """The connection broke: what had no answer, or only just got one, is sent again on the next."""
        self.inflight.clear()
        self._resting.lost()
        self._next_live = 0

    def answered(self, packet: int, reason: int) -> None:
        """The other side's reason code for a packet."""
        what = self.inflight.answered(packet)
        if what is None:
            return
        if isinstance(what, str):
            if reason >= 0x80:
                self.refusals[reason] += 1
                self._outlet.refused(what, reason)
            return
        if reason >= 0x80:
            self._refused(what, reason)
            return
        self.inflight.settling.add(what.id)
        self.counts["acked"] += 1
        if self._resting.accepted(self._outlet.topic(what), what.id):
            self._scan = 1

    def settle_all(self) -> None:
        """The connection ends in good order: nothing that was acknowledged can be lost any more."""
        for row_id in self.inflight.settling.take_all():
            self.cursor.deliver(row_id)

    # --- sending

    def tend(self, now: float, heard_at: float) -> None:
        """Notice a store that was opened or replaced, and what has settled; connection or not."""
        if self.cursor.refresh():  # ids mean other rows now
            self.inflight.void_rows()
            self._next_live = 0
        for row_id in self.inflight.settling.settled(heard_at):
            self.cursor.deliver(row_id)
        if now - self._oldest_at > 1.0:
            self._oldest_at, self._oldest_s = now, self.cursor.oldest_pending_s()

    def send_recent(self) -> bool:
        """In the journal's thread: send what is live and still in memory; False when something is left to do."""
        if not self._next_live or self._journal.generation != self.cursor.generation:
            return False
        last = self._journal.last_id
        rows = self._journal.recent(self._next_live, last, self.room())
        return rows is not None and self._send_rows(rows) and self._next_live > last

    def send_live(self) -> None:
        """Send what is live, as far as there is room."""
        if not self._next_live:
            self._next_live = self.cursor.first_live(self._rules.live_max_age_ms * 1_000_000)
            self._scan = 1
        while self.room() > 0 and self._next_live <= self.cursor.last_id():
            rows = self.cursor.rows(self._next_live, self.cursor.last_id(), self.room())
            if not self._send_rows(rows):
                return
            if not rows:  # pruned, or taken out by hand
                self._next_live = self.cursor.last_id() + 1

    def send_backlog(self, now: float) -> float:
        """One slice of older rows, when nothing is live; how long to wait for the next, in seconds."""
        if self._scan is None:
            retry_at = self._resting.next_at()
            if now < retry_at:
                return retry_at - now
            self._scan = 1
        room = self.room_behind()
        if room <= 0 or self._next_live <= self.cursor.last_id():
            return 1.0  # an answer will wake us
        if now < self._backlog_at:
            return self._backlog_at - now
        rows, following = self.cursor.backlog(self._scan, self._next_live, room)
        for row in rows:
            if not self._is_sent(row) and not self._send(row):
                return 0.0
        self._scan = following if following < self._next_live else None
        pause_s = self.pause_s(now)
        self._backlog_at = now + pause_s
        return pause_s

    def room(self) -> int:
        """How many messages may go now."""
        return min(self._rules.inflight, self._outlet.window()) - len(self.inflight)

    def room_behind(self) -> int:
        """The same for what waits behind live rows: a slice, and a quarter of the window is for live rows only."""
        return min(self.room() - self._rules.inflight // 4, SLICE)

    def pause_s(self, now: float) -> float:
        """The rest between two slices of work that can wait."""
        return BUSY_PAUSE_S if now - self._live_at < BUSY_S else 0.0

    def _send_rows(self, rows: list[Row]) -> bool:
        for row in rows:
            if not self._is_sent(row) and not self._send(row):
                return False
            self._next_live = row.id + 1
            self._live_at = time.monotonic()
        return True

    def _send(self, row: Row) -> bool:
        """Send one row, unless its like was refused just now; False when the link went down."""
        if not self._resting.may_send(self._outlet.topic(row), row.id):
            return True
        age_ms = self.cursor.age_ms(row)
        backfill = not self.cursor.is_of_this_boot(row) or age_ms is None or age_ms > self._rules.live_max_age_ms
        try:
            packet = self._outlet.send(row, backfill, age_ms)
        except TooLarge as error:
            self._refused(row, error.reason)
            return True
        if packet is None:
            return False
        self.inflight.sent(packet, row)
        self.counts["published"] += 1
        self.counts["backfilled"] += backfill
        return True

    def _is_sent(self, row: Row) -> bool:
        return self.inflight.has_row(row.id) or self.cursor.is_delivered(row.id)

    def _refused(self, row: Row, reason: int) -> None:
        topic = self._outlet.topic(row)
        self.refusals[reason] += 1
        self._resting.refused(row.id if reason in OF_THE_MESSAGE else topic)
        self._outlet.refused(topic, reason)
