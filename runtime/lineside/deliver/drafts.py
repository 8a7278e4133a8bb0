"""Records become drafts: encoded, not yet numbered. What cannot become one is counted, and a gap record tells of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque

from lineside.contracts import Clock, Committed
from lineside.deliver import messages
from lineside.deliver.tables import Draft
from lineside.records import Decision, Record

_KEEP = {"event": 0, "recipe": 2, "audit": 2}

log = logging.getLogger(__name__)


class Mark:
    """Asks the writer to say when everything that was put before it is committed, and `sealed`: signed."""

    def __init__(self, sealed: bool) -> None:
        self.sealed, self.done = sealed, threading.Event()


class Drafts:
    """`waiting` is the writer's own; `lose` may be called by any thread."""

    def __init__(self, clock: Clock) -> None:
        self.waiting: deque[Draft] = deque()
        self.lost_total = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._lost: Counter[tuple[str, str]] = Counter()  # (station, reason) -> records that no gap has told of yet
        self._synchronized, self._synchronized_at = False, float("-inf")

    def add(self, record: Record, committed: Committed | None) -> bool:
        """Encode a record and let it wait; False when it cannot be a message."""
        try:
            body = messages.body(record, self._clock_synchronized())
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            log.error("station %s: decision %s cannot be a message (%s)", record.station, record.id, error)
            self.lose(record.station, f"a record could not be encoded ({error})")
            return False
        late = isinstance(record, Decision) and record.late
        kind = messages.kind_of(record)
        is_good = isinstance(record, Decision) and record.verdict == "accept"
        keep = 0 if is_good else _KEEP.get(kind, 1)
        made = (record.decided_ns, record.decided_wall_ns)
        self.waiting.append(Draft(record.station, kind, late, *made, body, keep, committed))
        return True

    def settle(self, count: int) -> None:
        """So many of those that waited longest are on disk."""
        for draft in [self.waiting.popleft() for _ in range(count)]:
            if draft.committed is not None:
                draft.committed()

    def lose(self, station: str, reason: str) -> None:
        with self._lock:
            self._lost[station, reason] += 1
            self.lost_total += 1

    @property
    def has_lost(self) -> bool:
        return bool(self._lost)

    def gaps(self) -> list[Draft]:
        """What tells of all that was lost since the last call."""
        with self._lock:
            lost, self._lost = self._lost, Counter()
        wall_ns = self._clock.wall_ns()
        return [
            self.gap(station, messages.gap_body(count, reason, None, None, wall_ns))
            for (station, reason), count in lost.items()
        ]

    def gap(self, station: str, body: bytes) -> Draft:
        return Draft(station, "gap", False, self._clock.monotonic_ns(), self._clock.wall_ns(), body, 2)

    def _clock_synchronized(self) -> bool:
        now = time.monotonic()
        if now - self._synchronized_at > 1.0:  # it asks the kernel
            self._synchronized, self._synchronized_at = self._clock.synchronized(), now
        return self._synchronized
