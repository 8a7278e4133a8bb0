"""What was sent to a broker and is not yet acknowledged; and how long to wait before the next attempt to reach it."""

from __future__ import annotations

import random
import time

from lineside.deliver.tables import Row

STEADY_S = 10.0  # a connection that lasted so long, or delivered something, ends the backoff


class InFlight:
    """Packet ids and the rows that they carry (None: a status), in the order of sending."""

    def __init__(self) -> None:
        self._packets: dict[int, tuple[Row | None, float]] = {}
        self.rows: set[int] = set()  # ids

    def sent(self, packet: int, row: Row | None) -> None:
        self._packets[packet] = (row, time.monotonic())
        if row is not None:
            self.rows.add(row.id)

    def answered(self, packet: int) -> Row | None:
        row, _ = self._packets.pop(packet, (None, 0.0))
        if row is not None:
            self.rows.discard(row.id)
        return row

    def waits_s(self) -> float:
        """How long the oldest has waited for its answer."""
        return time.monotonic() - next(iter(self._packets.values()))[1] if self._packets else 0.0

    def void_rows(self) -> None:
        """The store was replaced: row ids mean other rows now, answers to the old ones mean nothing."""
        self._packets = {packet: (None, sent) for packet, (_, sent) in self._packets.items()}
        self.rows.clear()

    def clear(self) -> None:
        self._packets.clear()
        self.rows.clear()

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
