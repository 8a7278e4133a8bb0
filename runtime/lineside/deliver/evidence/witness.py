"""Stands beside a station's frame path: keeps its last frames, and asks for evidence of the decisions that deserve it.

Called in the station's own thread, so it does next to nothing: a reference, a snapshot, a look at the verdict.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable

from lineside.contracts import RecordStore
from lineside.deliver.evidence.ring import Answer, Entry, Job, Ring, State
from lineside.records import Decision, Event, Frame, Record

_MOST_MISSED = 1000  # frames: each takes 350 bytes of the journal's record

Offer = Callable[[Job], bool]


class Witness:
    """A RecordStore before the journal: what is put goes on to it first, then perhaps becomes a job."""

    def __init__(
        self,
        station: str,
        store: RecordStore,
        offer: Offer,
        *,
        accept_share: float,
        events: bool,
        ring_bytes: int,
        event_frames: int,
        most_frames: int,
    ) -> None:
        self.station = station
        self.ring = Ring(ring_bytes)
        self._store, self._offer = store, offer
        self._accept_share, self._events = accept_share, events
        self._event_frames, self._most_frames = event_frames, most_frames
        self._at_end = False

    def see(self, frame: Frame, seen: Answer, state: State) -> None:
        """A frame that the logic is about to be told of; `state` is the logic's before it."""
        self._at_end = False
        self.ring.add(Entry(frame, seen, state))

    def end(self) -> None:
        """What is put from here on comes of no frame: the source has ended, or pictures change their size."""
        self._at_end = True

    def put(self, record: Record, committed: Callable[[], None] | None = None) -> None:
        self._store.put(record, committed)  # first: a decision waits for nothing here
        if isinstance(record, Decision):
            why = self._why(record)
            if why:
                self._ask(record, why, self._of_part(record))
        elif isinstance(record, Event) and self._events:
            self._ask(record, "event", self.ring.newest(self._event_frames))

    def missed(self, note: str) -> Job | None:
        """The ring, for a defect that nobody decided about; None while no frame has come."""
        entries = self.ring.newest(_MOST_MISSED)
        if not entries:
            return None
        return Job(str(uuid.uuid4()), "missed", "missed", self.station, entries, 0, time.time_ns(), note=note)

    def _why(self, decision: Decision) -> str:
        """Why this decision asks for evidence; "" if it doesn't. The sample depends on nothing but the id."""
        if decision.escalated:
            return "escalated"
        if decision.verdict != "accept":
            return decision.verdict
        return "sample" if chance(decision.id) < self._accept_share else ""

    def _of_part(self, decision: Decision) -> tuple[Entry, ...]:
        seen = decision.part.observations
        return self.ring.since(seen[0].frame_number) if seen else self.ring.newest(1)

    def _ask(self, record: Decision | Event, why: str, entries: tuple[Entry, ...]) -> None:
        kept = entries[-self._most_frames :]
        missing = 0
        if isinstance(record, Decision):
            first = kept[0].frame.number if kept else 1 << 62
            missing = sum(seen.frame_number < first for seen in record.part.observations)
        kind = "decision" if isinstance(record, Decision) else "event"
        self._offer(
            Job(record.id, kind, why, self.station, kept, missing, record.decided_wall_ns, record, self._at_end)
        )


def chance(decision_id: str) -> float:
    """0 up to 1, the same for the same id wherever it is computed: who has the ids knows which were sampled."""
    return int.from_bytes(hashlib.sha256(decision_id.encode()).digest()[:6]) / (1 << 48)
