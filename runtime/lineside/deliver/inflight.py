"""What was sent to a broker and is not yet acknowledged; and how long to wait before the next attempt to reach it."""

from __future__ import annotations

import random
import time
from itertools import takewhile

from lineside.deliver.tables import Row
from lineside.metrics import Latency

STEADY_S = 10.0  # a connection that lasted so long, or delivered something, ends the backoff


class Settling:
    """Rows that were acknowledged a moment ago. A broker that dies has lost what it acknowledged but had not written:
    mosquitto 2.0.11 with its crash-safe settings up to the last 20 ms, measured under load. When the connection
    breaks they are sent again, which a subscriber drops by (station, epoch, seq). Time alone settles nothing: a stalled
    link hides the broker's end, so a row must be `settle_s` old when something comes from the broker."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[int, float] = {}  # row id -> when; oldest first

    def add(self, row_id: int) -> None:
        self._since[row_id] = time.monotonic()

    def settled(self, heard_at: float) -> list[int]:
        """Take out what was acknowledged long enough before the broker was last heard (time.monotonic)."""
        before = heard_at - self._settle_s
        done = list(takewhile(lambda row_id: self._since[row_id] <= before, self._since))
        for row_id in done:
            del self._since[row_id]
        return done

    def take_all(self) -> list[int]:
        rows = list(self._since)
        self._since.clear()
        return rows

    def __contains__(self, row_id: object) -> bool:
        return row_id in self._since

    def __len__(self) -> int:
        return len(self._since)


class InFlight:
    """Packet ids and the rows that they carry (or the topic of something else), in the order of sending."""

    def __init__(self, settle_s: float) -> None:
        self._packets: dict[int, tuple[Row | str, float]] = {}
        self.rows: set[int] = set()  # ids
        self.settling = Settling(settle_s)
        self.round_trip = Latency()  # of rows, from sending to the answer

    def sent(self, packet: int, what: Row | str) -> None:
        self._packets[packet] = (what, time.monotonic())
        if not isinstance(what, str):
            self.rows.add(what.id)

    def answered(self, packet: int) -> Row | str | None:
        """What the packet carried; None for one that is not known."""
        what, sent = self._packets.pop(packet, (None, 0.0))
        if what is not None and not isinstance(what, str):
            self.rows.discard(what.id)
            self.round_trip.add(int((time.monotonic() - sent) * 1e9))
        return what

    def waits_s(self) -> float:
        """How long the oldest has waited for its answer."""
        return time.monotonic() - next(iter(self._packets.values()))[1] if self._packets else 0.0

    def void_rows(self) -> None:
        """The store was replaced: row ids mean other rows now, answers to the old ones mean nothing."""
        self._packets = {
            packet: (what if isinstance(what, str) else "", sent) for packet, (what, sent) in self._packets.items()
        }
        self.rows.clear()
        self.settling.take_all()

    def clear(self) -> None:
        self._packets.clear()
        self.rows.clear()
        self.settling.take_all()

    def has_row(self, row_id: int) -> bool:
        return row_id in self.rows or row_id in self.settling

    def __len__(self) -> int:
        return len(self._packets)

    def __contains__(self, packet: object) -> bool:
        return packet in self._packets


class Backoff:
    """Doubles the wait from `min_s` to `max_s` while connections deliver nothing; jittered, so that a plant's boxes
    do not come back as one."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s, self._max_s = min_s, max_s
        self._fails = 0
        self._acked = 0

    def next_s(self, lasted_s: float, acked: int) -> float:
        """The wait after a connection that lasted so long (0: none came about); `acked` counts all acknowledgements."""
        delivered, self._acked = acked > self._acked, acked
        self._fails = 0 if delivered or lasted_s > STEADY_S else self._fails + 1
        ceiling_s = min(self._min_s * 2 ** min(self._fails, 20), self._max_s)
        return random.uniform(ceiling_s / 2, ceiling_s)


class Resting:
    """What a broker refused, by topic or row: it rests for a while, then one row is sent to see whether it changed.

    It outlives a connection: mosquitto 2.0.11 closes after it has refused a topic, and the rest must go on.
    """

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._rests: dict[str | int, tuple[float, float]] = {}  # topic or row id -> (not before, the next wait)
        self._probing: set[str | int] = set()

    def may_send(self, *keys: str | int) -> bool:
        """Whether a row with this topic and id may go; if it rested, it is the one that is sent to see."""
        resting = [key for key in keys if key in self._rests]
        now = time.monotonic()
        if any(key in self._probing or now < self._rests[key][0] for key in resting):
            return False
        self._probing.update(resting)
        return True

    def refused(self, key: str | int) -> None:
        _, wait_s = self._rests.get(key, (0.0, min(1.0, self._max_s)))
        self._rests[key] = (time.monotonic() + wait_s, min(wait_s * 2, self._max_s))
        self._probing.discard(key)

    def accepted(self, *keys: str | int) -> bool:
        """True when one of them had rested: what waits behind it may go now."""
        self._probing.difference_update(keys)
        return any([self._rests.pop(key, None) is not None for key in keys])

    def lost(self) -> None:
        """The connection broke: what was sent to see has no answer, which counts as a refusal."""
        for key in list(self._probing):
            self.refused(key)

    def next_at(self) -> float:
        """When something may be sent to see (time.monotonic); infinity when nothing rests."""
        return min((at for key, (at, _) in self._rests.items() if key not in self._probing), default=float("inf"))
